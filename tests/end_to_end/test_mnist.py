"""A network trained in seconds on a data set with classes enough: right when clean, and fooled by one step."""

from robharness import api


def test_a_trained_network_is_accurate_and_vulnerable_to_one_step(mnist_suite, mnist, tmp_path):
    suite = mnist_suite(attacks=[{"attack": "attacks/fgsm", "norm": "linf", "eps": 0.1}])
    results = api.run(suite, store=tmp_path / "store", plugins=[mnist], limit=200)
    [attacked] = results.of("CNN", "attack")
    assert results.is_complete
    assert attacked.n == 200
    assert results.clean("CNN").accuracy > 0.9
    assert attacked.accuracy < results.clean("CNN").accuracy - 0.1
