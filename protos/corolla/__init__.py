"""Generated code of the corolla protocol."""
