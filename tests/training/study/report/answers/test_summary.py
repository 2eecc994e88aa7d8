from tests.training.study.report.small import curve, joined, small
from training.study.report.answers.choices import advice
from training.study.report.answers.standing import standing
from training.study.report.answers.summary import cards
from training.study.report.contents import Card
from training.study.report.material import Material

HERE = {"linear:1": 0.80, "bitfit:1": 0.91, "lora:1": 0.92, "full:1": 0.85}
THERE = {"linear:1": 0.40, "bitfit:1": 0.55, "lora:1": 0.60, "full:1": 0.41}


def answers(material: Material) -> list[Card]:
    stand = standing(material)
    assert stand is not None
    return list(cards(material, stand))


def test_the_smallest_of_the_tied_models_is_the_answer_with_its_test() -> None:
    method = answers(Material(evaluation=small({"photo": HERE})))[0]
    assert method.answer.startswith("bitfit. It is the smallest (103k trained parameters) of the 2 models")
    assert "+1.0 points (95 % interval −1.0 to +3.0 points; adjusted McNemar p = 0.60" in method.evidence[0]
    assert "2 models are worse by more than chance" in method.evidence[1]


def test_a_model_that_beats_all_others_is_the_answer() -> None:
    method = answers(Material(evaluation=small({"photo": HERE | {"bitfit:1": 0.85}})))[0]
    assert method.answer.startswith("lora: 92.0\xa0% (90.2 to 93.5)")
    assert "better than every other single model" in method.answer


def test_the_base_is_recommended_with_a_command_where_no_adapter_is_shown_to_be_better() -> None:
    todo = answers(Material(evaluation=small({"photo": {"base": 0.91, "lora:1": 0.92}})))[3]
    assert todo.answer == "Take base."
    assert todo.commands == ("corolla routes put best 'base' --task photos",)
    assert todo.evidence[0] == "No adapter is shown to be better than the frozen backbone with its base head."
    assert "reaches 2.0 points to either side: a smaller one is seldom told from chance" in todo.evidence[1]


def test_an_ensemble_is_said_to_pay_only_beyond_chance() -> None:
    found = HERE | {"lora:1, bitfit:1": 0.96}
    paying = answers(Material(evaluation=small({"photo": found}, ensembles=(joined(0.04, 0.0),))))
    assert paying[1].answer == "lora, bitfit beats its best member, 96.0\xa0% against 92.0\xa0%."
    assert "not measurably different from that" in paying[1].evidence[1]
    assert "corolla routes put careful 'lora:1, bitfit:1' --task photos" in paying[3].commands
    idle = answers(Material(evaluation=small({"photo": found}, ensembles=(joined(0.01),))))
    assert idle[1].answer.startswith("None is shown to pay")
    assert "there are no adapters of one method that differ in their seed alone" in idle[1].evidence[1]
    assert not any("careful" in line for line in idle[3].commands)


def test_a_shift_is_told_with_what_it_does_to_accuracy_confidence_and_petl() -> None:
    curves = (curve("bitfit:1", (0.8, 0.92, 0.91), (0.4, 0.6, 0.55)),)
    shift, todo = answers(Material(evaluation=small({"photo": HERE, "sketch": THERE}, curves=curves)))[2:]
    assert shift.answer == "On sketch lora loses 32.0 points, 60.0\xa0% against 92.0\xa0% on photo."
    assert "30.0 points surer than it is right" in shift.evidence[1]
    assert "is better than full fine-tuning: +19.0 points" in shift.evidence[2]
    assert "corolla routes put steady '0.5*bitfit:1' --task photos" in todo.commands


def test_without_shifted_images_nothing_is_said_of_a_shift() -> None:
    shift = answers(Material(evaluation=small({"photo": HERE})))[2]
    assert shift.answer == "No shifted set was measured."


def test_advice_for_each_situation_names_a_model_and_why() -> None:
    material = Material(evaluation=small({"photo": HERE, "sketch": THERE}))
    stand = standing(material)
    assert stand is not None
    found = {one.situation: one for one in advice(material, stand)}
    assert found["the smallest adapter"].take == "bitfit"
    assert found["plain weights for another server"].take == "lora"
    assert found["images like sketch"].take == "lora"
    assert "flatters it" in found["images like sketch"].because
