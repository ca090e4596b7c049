"""What the YAML files of this folder name with ``!function`` (lm-eval looks next to them)."""

from promptrl_plugin.harnesses.lm_task import StrategyTask, dataset

__all__ = ["StrategyTask", "dataset"]
