"""The regression gate: baselines, thresholds, what has become worse, and other versions measured beside this one."""
