"""Tables, statistics, hypotheses and figures of finished runs. Works without torch; only
`analysis.runner` reaches down to `aba_core`, when it trains."""
