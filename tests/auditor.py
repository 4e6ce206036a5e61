"""A plugin for the core's tests of audits, beside the toys: a probe, noise, and the attacks of an audit."""

from dataclasses import dataclass, field
from typing import Literal

from robharness import PROBE_NOTES, AttackSpec, AuditSpec, Cost, Perturbed, ThreatModel, hookimpl

HONEST = {"gradient_rise": 1.0, "random_rise": 0.25, "predicted_rise": 1.0}


@dataclass(frozen=True, kw_only=True)
class Params:
    norm: Literal["linf"] = field(default="linf")


class Probe:
    def perturb(self, model, batch, eps, rng):
        constant = {name: [kind(HONEST.get(name, 0))] * len(batch) for name, kind in PROBE_NOTES.items()}
        return Perturbed(x=batch.x, notes=constant)


class Noise:
    def perturb(self, model, batch, eps, rng):
        up = rng.uniform("noise", batch.x.shape[1:]) < 0.5
        return (batch.x + eps * (2.0 * up - 1)).clamp(0, 1)


def spec(name, build, **changes):
    facts = {"summary": name, "access": "gradient", "params": Params, "cost": lambda params: Cost()}
    return AttackSpec(name=name, threat=lambda params: ThreatModel(norm=params.norm), build=build, **facts | changes)


@hookimpl
def robharness_attacks():
    yield spec("probe", lambda params: Probe(), notes=dict(PROBE_NOTES), randomness="none")
    yield spec("noise", lambda params: Noise(), access="decision")


@hookimpl
def robharness_audits():
    yield AuditSpec(role="probe", items=lambda target: [{"attack": "auditor/probe", "eps": "1/8"}])
    yield AuditSpec(role="noise", items=lambda target: [{"attack": "auditor/noise", "eps": str(target.eps)}])
    yield AuditSpec(role="stronger", items=lambda target: [{"attack": "toys/climb", "eps": "1/4", "steps": 9}])
    yield AuditSpec(role="single-step", items=lambda target: [{"attack": "toys/sign", "eps": "1/8"}])  # its own already
