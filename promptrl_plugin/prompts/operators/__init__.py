"""The operators of the hybrid action space.

| action | kind | what it does | generations | decoding | source |
| --- | --- | --- | --- | --- | --- |
| `generate` | direct | code from the current prompt; once for each prompt | 1 | greedy | EvalPlus's protocol |
| `sample_warm`, `sample_hot` | direct | another draw from the current prompt | 1 | sampled | best-of-k |
| `complete` | direct | code from the current prompt, which a chat model completes as a text, this once | 1 | greedy | EvalPlus's `--force-base-prompt` |
| `complete_warm`, `complete_hot` | direct | another draw of the same | 1 | sampled | best-of-k |
| `revert` | direct | back to the prompt of the best attempt | 0 | – | – |
| `reset` | direct | back to the task's own prompt | 0 | – | – |
| `stop` | direct | submit the best attempt | 0 | – | – |
| `synonym_light`, `synonym_strong` | lexical | WordNet synonyms for some words | 1 | hot | EPiC, arXiv 2408.11198 |
| `deletion_light`, `deletion_strong` | lexical | leave out fillers and function words | 1 | hot | EDA, arXiv 1901.11196 |
| `swap_light`, `swap_strong` | lexical | exchange neighbouring words | 1 | hot | EDA, arXiv 1901.11196 |
| `shuffle_light`, `shuffle_strong` | lexical | reorder sentences and notes | 1 | hot | AEDA/EDA family |
| `crossover_light`, `crossover_strong` | lexical | cross with another prompt of the episode | 1 | hot | EvoPrompt, arXiv 2309.08532 |
| `clarify` | semantic | the rewriter restates the task in one sentence that names the function | 2 | greedy | arXiv 2605.19102 |
| `simplify` | semantic | the rewriter puts the task in plain words | 2 | greedy | arXiv 2605.19102 |
| `plan_first` | semantic | note: steps as comments, then code | 1 | greedy | self-planning, arXiv 2303.06689 |
| `edge_cases` | semantic | note: the edge cases of the arguments' types | 1 | greedy | – |
| `contract` | semantic | note: arguments and result, from signature and visible tests | 1 | greedy | – |
| `fixed_examples` | semantic | show three fixed solved train tasks | 1 | greedy | few-shot prompting, arXiv 2005.14165 |
| `nearest_examples` | semantic | show the three nearest solved train tasks | 1 | greedy | kNN prompting, arXiv 2101.06804 |
| `other_examples` | semantic | show three further fixed examples, at every use others | 1 | greedy | demonstration ensembling, arXiv 2308.08780 |
| `reflect_repair` | semantic | show the failed program and the visible test's outcome, ask for a right one | 1 | hot | self-repair, arXiv 2304.05128 |
| `failure_note` | semantic | note: the type to return, the module to import, the name or the number of arguments that the failure misses | 1 | hot | – |

None of them touches code, asserts, identifiers, numbers or quoted text of the task (`task_text`). Further
operators come from the entry-point group ``promptrl.operators``: each entry point is an `Operator`
instance, or a callable without arguments that returns one, under its own name.
"""  # noqa: E501  (a table for the README)

from __future__ import annotations

import functools

from promptrl_plugin.errors import ConfigError, UnknownNameError
from promptrl_plugin.plugins import call_plugin, load_plugin, plugin_names
from promptrl_plugin.prompts.operators.base import Operator

__all__ = ["GROUP", "KINDS", "builtin_operators", "find_operator"]

GROUP = "promptrl.operators"
KINDS = ("direct", "lexical", "semantic")


@functools.cache
def builtin_operators() -> tuple[Operator, ...]:
    """Every built-in operator, in the order of the default action table."""
    from promptrl_plugin.prompts.operators.direct import GenerateCode, GoBack, Stop
    from promptrl_plugin.prompts.operators.lexical import operators as lexical
    from promptrl_plugin.prompts.operators.semantic import operators as semantic

    return (
        GenerateCode("generate", "greedy"),
        GenerateCode("sample_warm", "warm"),
        GenerateCode("sample_hot", "hot"),
        GenerateCode("complete", "greedy", completion=True),
        GenerateCode("complete_warm", "warm", completion=True),
        GenerateCode("complete_hot", "hot", completion=True),
        GoBack("revert", lambda view: view.best_state),
        GoBack("reset", lambda view: view.population[0]),
        Stop(),
        *lexical(),
        *semantic(),
    )


def find_operator(name: str) -> Operator:
    """The operator called `name`, built in or from the entry-point group.

    Raises:
        UnknownNameError: There is none.
        ConfigError: The entry point of that name cannot be loaded or is no operator.
    """
    builtin = {op.name: op for op in builtin_operators()}
    if name in builtin:
        return builtin[name]
    found = load_plugin(GROUP, "operator", name)
    if found is None:
        raise UnknownNameError("operator", name, [*builtin, *plugin_names(GROUP)])
    operator = call_plugin("operator", name, repr(found), found) if callable(found) else found
    if not isinstance(operator, Operator) or operator.name != name:
        raise ConfigError(f"operator {name!r} ({found!r}) is not an Operator of that name; mend or uninstall it")
    return operator
