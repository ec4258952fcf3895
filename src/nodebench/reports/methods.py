"""How each figure is taken, as the README has it."""

FIGURES: tuple[tuple[str, str], ...] = (
    (
        "gradient error",
        "relative L2 distance of d/dparams and d/dy0 from a float64 reference of the continuous problem: the "
        "closed form, or a far finer solve that states its own accuracy. An error that is not a hundred times "
        "that is not stated",
    ),
    (
        "method error",
        "the same distance from the exact gradient, in float64, of the very discretisation the backend chose: "
        "what is left is the method's share, and rounding",
    ),
    (
        "NFE, VJPs, steps",
        "counted in an instrumented run of forward and backward",
    ),
    (
        "peak memory",
        "one warmed gradient step above the idle process: memray on a CPU, the allocator on a GPU; beside it "
        "the exact bytes kept for the backward pass",
    ),
    (
        "time",
        "a live, warmed worker process per method, one thread unless `--threads` says otherwise; they take "
        "turns in shuffled order, one at a time, in four or more starts of fresh workers; times and ratios to "
        "`--control` (the first method) with 95 % intervals over the starts",
    ),
    (
        "start_method",
        "how processes are started: each of several starts has a fresh launcher per framework, which imports it and "
        "forks a worker for each cell (`fork`); where a fork is not safe, or the launcher is lost, workers are new "
        "interpreters (`spawn`: some or all of a cell's). What is not timed is done side by side, `--jobs` cells at "
        "once",
    ),
    (
        "x floor",
        "the step over what its own evaluations and VJPs cost alone, the two taking turns in one process; "
        "eager torch only, since a compiler fuses solver and field",
    ),
    (
        "compilation",
        "the first step less a warmed one, of cells that compile (JAX, `compile=true`), with nothing kept from earlier",
    ),
    (
        "training",
        "test metric, loss, validation and NFE by epoch, error and time against NFE at other tolerances, peak "
        "resident set, peak memory of one training step at the initial weights, by the preset: `smoke` (seconds), "
        "`quick` (about two minutes), `standard`, `paper` (the paper's own)",
    ),
)
"""Name of a figure, and how it is taken."""
