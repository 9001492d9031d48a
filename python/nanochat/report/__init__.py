"""The report card: records that stages leave in a run folder, and the page made from them."""
