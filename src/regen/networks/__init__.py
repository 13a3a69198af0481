"""Networks of the embedders; independent of methods and losses."""
