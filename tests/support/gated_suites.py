"""The suite of checks over `tests/gated.py`: a network whose one weight is in net.json, an attack and a corruption."""

HALVES = {
    "robharness": 1,
    "name": "halves",
    "data": {"name": "gated/halves", "split": "test"},
    "canvas": 8,
    "models": [{"model": "gated/net", "label": "Net", "weights": "./net.json"}],
    "attacks": [{"attack": "gated/dim", "eps": "10/255"}],
    "corruptions": [{"corruption": "gated/brighter", "severity": 1}],
}
