"""RL prompt optimization as a prompting strategy for EvalPlus and lm-evaluation-harness."""

__version__ = "0.1.0"
