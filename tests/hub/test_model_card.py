"""Model cards say what the run recorded, and what it did not."""

from lwm_spectro_hf import LwmSpectroMoEConfig
from lwm_spectro_hf.hub.model_card import departures, render, with_section


def test_a_card_shows_the_figures_of_the_run():
    run = {
        "summary": "A small one.",
        "data": "Generated.",
        "machine": "two cores",
        "log": {"router": {"seconds": 90.0, "samples": 12345, "loss": 0.25}},
        "scores": {"protocol": {"all": {"accuracy": 91.25, "macro_f1": 90.5, "num": 10}}},
        "limits": "Many.",
    }
    card = render("lwm-spectro-test", run)
    assert card.startswith("---\nlicense: apache-2.0")
    assert "| router | 1.5 | 12,345 | 0.250 |" in card and "| protocol | 90.5 / 91.2 |" in card
    assert "two cores" in card and "Many." in card


def test_departures_from_the_paper_come_from_the_configuration():
    rows = departures(LwmSpectroMoEConfig(additional_tasks={"snr_db": ["0"]})).splitlines()
    assert rows == ["| field | here | paper |", "| --- | --- | --- |"], "the defaults are the paper's"
    config = LwmSpectroMoEConfig(expert_config={"patch_size": 16, "level_num_bins": 20}, router_type="fourier")
    assert departures(config).splitlines()[2:] == [
        "| `patch_size` | 16 | 4 |",
        "| `level_num_bins` | 20 | 0 |",
        "| `router_type` | fourier | transformer |",
    ]


def test_a_card_without_scores_says_so():
    assert "No evaluation results" in render("lwm-spectro-test", {})


def test_a_section_is_added_once_before_the_limits():
    card = render("lwm-spectro-test", {"limits": "Many."})
    first = with_section(card, "Few-shot benchmark", "| 1 |")
    assert first.index("## Evaluation") < first.index("## Few-shot benchmark\n\n| 1 |\n\n## Limits")
    second = with_section(first, "Few-shot benchmark", "| 2 |\n")
    assert second == first.replace("| 1 |", "| 2 |")
    last = with_section(render("lwm-spectro-test", {}), "Few-shot benchmark", "| 3 |")
    assert (
        last.endswith("\n\n## Few-shot benchmark\n\n| 3 |\n")
        and with_section(last, "Few-shot benchmark", "| 3 |") == last
    )
