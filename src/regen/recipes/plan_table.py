"""The plan of a training, printed for people."""

from rich.table import Table

from regen.console import print_table
from regen.recipes.plan import Hardware, Plan


def print_plan(name: str, found: Plan, hardware: Hardware) -> None:
    """Print a plan for people."""
    whole = sum(found.parameters.values())
    parts = " + ".join(
        f"{number / 1e6:.1f} M ({part})" for part, number in found.parameters.items() if number > whole / 1000
    )
    print(f"{name} on {hardware.gpus} {hardware.gpu} of {hardware.memory / 1e9:g} GB; nothing is run.")
    print(f"Assumed: {found.assumes}.\n" if found.assumes else "")
    print(f"Parameters: {parts}")
    operations = _operations(found.tflop)
    if found.encoder_tflop:
        operations += f", and {_operations(found.encoder_tflop)} of the encoder"
    print(f"An update (mean): {found.samples:,.0f} samples, {found.tokens:,.0f} tokens, {operations}")
    print(
        f"{found.steps:,} updates: {_duration(found.days(hardware))} at a utilisation of "
        f"{100 * hardware.utilisation:.0f} % of the bf16 peak\n"
    )
    unit, name = (1e9, "GB") if max(phase.bytes for phase in found.phases) >= 1e9 else (1e6, "MB")
    table = Table(
        "phase", "largest work on a GPU", f"state ({name})", f"activations ({name})", f"all ({name})", ""
    )
    for column in table.columns[2:5]:
        column.justify = "right"
    rows = [
        (
            phase.name,
            phase.work,
            *(f"{size / unit:.1f}" for size in (phase.state, phase.activations, phase.bytes)),
            phase.verdict(hardware),
        )
        for phase in found.phases
    ]
    print_table(table, rows)


def _operations(tflop: float) -> str:
    return f"{tflop:,.1f} TFLOP" if tflop >= 1 else f"{1000 * tflop:,.2f} GFLOP"


def _duration(days: float) -> str:
    if days >= 1:
        return f"{days:.1f} days"
    return f"{24 * days:.1f} hours" if days >= 1 / 24 else f"{1440 * days:.1f} minutes"
