"""promptrl's task folder for lm-evaluation-harness (entry-point group ``lm_eval.tasks``)."""
