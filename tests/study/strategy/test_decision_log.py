"""The record of decisions: kept, repeated, and begun anew."""

from workbench.compress.recipe import Recipe
from workbench.compress.steps import Prune
from workbench.study.strategy.decision_log import Decision, DecisionLog, last_decisions

QUESTION = {"task": "t", "limit": 0.01}


def test_a_fact_is_made_once_and_repeated(memory):
    first = DecisionLog(memory, "s", QUESTION)
    assert first.once("seconds", lambda: 12.5) == 12.5
    assert first.once("seconds", lambda: 99.0) == 12.5
    assert DecisionLog(memory, "s", QUESTION).once("seconds", lambda: 99.0) == 12.5
    assert DecisionLog(memory, "s", {**QUESTION, "limit": 0.02}).once("seconds", lambda: 99.0) == 99.0


def test_nothing_is_no_fact_and_is_asked_for_again(memory):
    record = DecisionLog(memory, "s", QUESTION)
    assert record.once("rung", lambda: None) is None
    assert record.once("rung", lambda: 1) == 1


def test_after_the_end_no_new_facts_are_made_until_it_begins_anew(memory):
    record = DecisionLog(memory, "s", QUESTION)
    record.once("a", lambda: 1)
    record.end(["key"])
    again = DecisionLog(memory, "s", QUESTION)
    assert (again.once("a", lambda: 2), again.once("b", lambda: 2), again.trials) == (1, None, ["key"])
    again.restart()
    assert again.once("b", lambda: 2) == 2


def test_the_last_plan_is_found_with_its_decisions_and_recipes(memory):
    assert last_decisions(memory, "s") is None
    record = DecisionLog(memory, "s", QUESTION)
    recipe = record.recipe(Recipe(Prune(0.3), name="prune"))
    decision = Decision("training", "8 blocks out", "kept", "It holds.", speedup=1.4, drop=0.004)
    record.add(decision)
    found = last_decisions(memory, "s")
    assert found.decisions == (decision,) and found.recipe_ids == (recipe.recipe_id,) and not found.ended
    record.end([])
    assert last_decisions(memory, "s").ended
