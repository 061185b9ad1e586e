"""How the answers of several views are combined."""

import numpy as np
import pytest
import torch

from lwm_spectro_hf.evidence_lwm_spectro import Evidence, marginal, quantities, view_weights


def test_uniform_views_have_weight_zero_and_certain_ones_weight_one():
    probabilities = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    weights = view_weights(probabilities.log())
    expected = [0, 1, 1 - np.log(2) / np.log(3)]
    np.testing.assert_allclose(weights, expected, atol=2e-6)


def test_views_are_combined_by_a_weighted_geometric_mean():
    protocol = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    modulation = np.array([[0.9, 0.1], [0.4, 0.6]])
    evidence = Evidence()
    for row in range(2):  # view by view, which must not matter
        log_probs = {"protocol": protocol[row : row + 1], "modulation": modulation[row : row + 1]}
        evidence.add({name: torch.tensor(value).log() for name, value in log_probs.items()})

    sure_of_protocol = 1 + (protocol * np.log(protocol)).sum(1) / np.log(3)
    sure_of_modulation = 1 + (modulation * np.log(modulation)).sum(1) / np.log(2)
    for name, values, weights in (
        ("protocol", protocol, sure_of_protocol),
        ("modulation", modulation, sure_of_protocol * sure_of_modulation),
    ):
        mean = np.prod(values ** (weights / weights.sum())[:, None], axis=0)
        np.testing.assert_allclose(evidence.probabilities()[name], mean / mean.sum(), rtol=1e-6)


def test_uninformative_views_are_averaged_with_equal_weights():
    evidence = Evidence()
    modulation = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])  # all equally certain
    evidence.add({"protocol": torch.full((3, 3), 1 / 3).log(), "modulation": modulation.log()})
    mean = modulation.prod(dim=0) ** (1 / 3)
    np.testing.assert_allclose(evidence.probabilities()["modulation"], mean / mean.sum(), rtol=1e-5)


def test_a_view_can_stand_for_several():
    parts = [{"protocol": torch.tensor([row]).log()} for row in ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6])]
    one, several = Evidence(), Evidence()
    one.add(parts[0])
    one.add(parts[1], stands_for=3)
    for part in (parts[0], *[parts[1]] * 3):
        several.add(part)
    torch.testing.assert_close(one.probabilities(), several.probabilities())


def test_an_untrusted_view_counts_for_the_protocol_only():
    protocol = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]).log()
    modulation = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
    evidence, plain = Evidence(), Evidence()
    evidence.add({"protocol": protocol, "modulation": modulation}, trust=torch.tensor([1.0, 0.0]))
    plain.add({"protocol": protocol})
    told = evidence.probabilities()
    torch.testing.assert_close(told["modulation"], modulation[0].exp())
    torch.testing.assert_close(told["protocol"], plain.probabilities()["protocol"])


def test_other_heads_are_weighted_by_the_routers_own_certainty():
    """Prefixes make every view certain of the protocol; other heads must still follow the packet, not the noise."""
    protocol = torch.tensor([[0.98, 0.01, 0.01]] * 3).log()
    noise, packet = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.1, 0.9]).log()
    snr_db = torch.stack([noise, noise, packet])
    for sure, right in ((None, 0), (torch.tensor([0.01, 0.01, 0.9]), 1)):
        evidence = Evidence()
        evidence.add({"protocol": protocol, "snr_db": snr_db}, sure=sure)
        found = evidence.probabilities()
        assert found["snr_db"].argmax() == right and found["protocol"][0] == pytest.approx(0.98, abs=1e-3)


def test_modulation_comes_from_symbol_views_if_there_are_any():
    protocol = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]).log()
    modulation = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
    symbols = torch.tensor([False, True])
    for blind, expected in (((), modulation[1]), (("modulation",), modulation[0])):
        evidence = Evidence(blind)
        evidence.add({"protocol": protocol, "modulation": modulation}, of_symbols=symbols)
        evidence.add({"protocol": protocol[:1], "modulation": modulation[:1]})  # a segment without symbols
        torch.testing.assert_close(evidence.probabilities()["modulation"], expected.exp())


def test_views_spread_over_time_decide_only_static_or_not():
    views = {"protocol": [[0.9, 0.1], [0.9, 0.1]], "mobility": [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]}
    views = {name: torch.tensor(value).log() for name, value in views.items()}
    evidence, plain = Evidence(still={"mobility": 0}), Evidence()
    embedding = torch.tensor([[1.0], [2.0]])
    evidence.add(views, embedding, spread=torch.tensor([False, True]))
    plain.add({name: value[:1] for name, value in views.items()}, embedding[:1])
    told = evidence.probabilities()
    torch.testing.assert_close(told["mobility"], torch.tensor([0.1, 0.9 * 0.6, 0.9 * 0.4]))
    torch.testing.assert_close(told["protocol"], plain.probabilities()["protocol"])
    torch.testing.assert_close(evidence.embedding(), plain.embedding())


def test_repeated_symbols_count_less_for_mobility():
    mobility = torch.tensor([[0.8, 0.1, 0.1]])
    told = {}
    for distinct in (1.0, 0.5):
        evidence = Evidence(still={"mobility": 0})
        evidence.add({"mobility": mobility.log(), "snr_db": mobility.log()}, distinct=torch.tensor([distinct]))
        told[distinct] = evidence.probabilities()
    torch.testing.assert_close(told[1.0]["mobility"], mobility[0])
    torch.testing.assert_close(told[0.5]["mobility"], mobility[0].sqrt() / mobility.sqrt().sum())
    torch.testing.assert_close(told[0.5]["snr_db"], mobility[0])


def test_the_strongest_symbol_evidence_is_kept():
    evidence = Evidence()
    assert evidence.heard is None
    for heard in ([-2.0, 0.0, -1.0], [-1.0, 0.0, -2.0]):  # 0: not searched for
        evidence.add({"protocol": torch.full((1, 3), 1 / 3).log()}, heard=torch.tensor(heard))
    assert evidence.heard.tolist() == [-1, -torch.inf, -1]


def test_other_protocols_have_the_share_of_segments_in_which_they_were_found():
    evidence, views = Evidence(), {"protocol": torch.full((1, 3), 1 / 3).log()}
    evidence.add(views)
    assert evidence.also_found("LTE") is None
    for beside in ({"LTE": ["WiFi"]}, {"LTE": ["5G", "WiFi"], "WiFi": ["LTE"]}, {}, {}):
        evidence.add(views, beside=beside)
    assert list(evidence.also_found("LTE").items()) == [("WiFi", 0.5), ("5G", 0.25)]
    assert evidence.also_found("5G") == {} and evidence.also_found(None) is None


def test_symbol_views_do_not_count_for_heads_trained_blindly():
    views = {"protocol": torch.tensor([[0.9, 0.1], [0.9, 0.1]]), "device": torch.tensor([[0.2, 0.8], [0.99, 0.01]])}
    views = {name: values.log() for name, values in views.items()}
    both, blind = Evidence(), Evidence(blind=["device"])
    for evidence in (both, blind):
        evidence.add(views, of_symbols=torch.tensor([False, True]))
    torch.testing.assert_close(blind.probabilities()["device"], torch.tensor([0.2, 0.8]))
    assert both.probabilities()["device"].argmax() == 0
    torch.testing.assert_close(both.probabilities()["protocol"], blind.probabilities()["protocol"])


def test_joint_labels_are_marginalized():
    labels = ["-5+static", "-5+vehicular", "20+static", "20+vehicular"]
    told = quantities("snr_db+mobility", labels)
    log_probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    marginals = {
        name: dict(zip(places, marginal(log_probs, places)[0].exp().tolist(), strict=True))
        for name, places in told.items()
    }
    assert marginals["snr_db"] == pytest.approx({-5.0: 0.3, 20.0: 0.7})
    assert marginals["mobility"] == pytest.approx({"static": 0.4, "vehicular": 0.6})


@pytest.mark.parametrize("labels", [["001", "010"], ["1e5", "100000"], ["+5", "5"]])
def test_labels_that_only_look_like_numbers_stay_text(labels):
    assert list(quantities("unit", labels)["unit"]) == labels


def test_labels_that_do_not_fit_the_name_are_an_error():
    with pytest.raises(ValueError, match="'-5'.*1 part"):
        quantities("snr_db+mobility", ["-5"])
