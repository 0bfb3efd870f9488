"""Speed and memory, as ratios against the plain loop measured in the same run."""
