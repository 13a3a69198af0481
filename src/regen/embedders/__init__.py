"""START HERE. One method per file: networks wired together behind `encode`, `decode`, `loss` and `config`."""
