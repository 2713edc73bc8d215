"""Cutting a trained network: scores, cuts and trainings of a schedule up to the budget, then compaction and its check.

What happens between two cuts is one phase. The state is saved after each, and a phase depends on the seed and its
number alone, so that a work which was stopped gives what it would have given.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..proxies.latency import Protocol, time_together
from ..proxies.losses import LOSSES, OF_EXITS, Extra
from ..proxies.patches import Patches, mix
from ..proxies.psnr import evaluate
from ..proxies.stairs import SECONDS, Estimate, calls_of, measure_stairs
from ..proxies.training import UNREADABLE, State, Training, optimiser_of, train
from ..proxies.weights import save_weights, with_weights
from ..proxies.work import Data, Report, Stop
from ..proxies.writing import write_bytes, write_json
from ..spaces import Design, InputError, build, deployed, inference_form
from ..spaces.flow import FORMS, compact, trace, without_batch_norm
from ..spaces.plan import Plan
from .budget import BUDGETS, Budget, Meter
from .criteria import CRITERIA, MEASURED_WITH, Scores, branch_scores, gradients_of
from .decide import Decider
from .gates import Gates, attach
from .masks import masked
from .nni_masks import PRUNERS, nni_plan
from .settings import Pruning
from .verify import verify

Batch = tuple[Tensor, Tensor]
MOST_SPARSE, NNI_ROUNDS = 0.95, 7  # of nni: where the search for a sparsity begins, and how often it is halved
BRANCH_BATCHES = 4  # of the batches for scores, so many tell what a branch is worth
CUT = "cut.safetensors"  # the weights of the cut network, in the folder of the work


@dataclass(frozen=True)
class StairsWork:
    """Measures how long the convolutions of a design take over their widths, and the design as a whole.

    Gives `latency_ms` and the `estimate` that budgets on latency are decided by. The whole is measured once for a
    `folder`; the stairs are kept for the device.
    """

    design: Design
    protocol: Protocol
    device: str
    folder: str
    exclusive: bool = True

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        network = deployed(self.design, build(self.design, device=self.device))
        calls = calls_of(inference_form(build(self.design, device="meta")), self.protocol.size)
        stairs = measure_stairs(calls, self.protocol, self.device, seconds=SECONDS)
        file = Path(self.folder) / "latency.json"
        if not file.exists():
            timing = time_together({"network": network}, "network", self.protocol, self.device)["network"]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"latency_ms": timing.latency_ms})
        latency_ms = float(json.loads(file.read_text())["latency_ms"])
        activations_m = Meter(self.design).whole["activations"]
        return {
            "latency_ms": latency_ms,
            "estimate": Estimate.fitted(stairs, calls, latency_ms, activations_m),
        }


@dataclass(frozen=True)
class CutWork:
    """Cuts a trained network to its budget and writes the cut weights (`CUT`) into `folder`.

    weights: of the uncut network, a safetensors file. training: the one it was trained by; steps and rates of what is
    trained here are the pruning's. estimate: for a budget on latency. plan: one that was decided elsewhere.
    tightened: factor on the budget's `latency_ratio`, where the measured time was above the estimate; a work that is
    done again with a smaller one goes on from where it ended.
    """

    design: Design
    weights: str
    pruning: Pruning
    training: Training
    data: Data
    seed: int
    device: str
    folder: str
    protocol: Protocol | None = None
    estimate: Estimate | None = None
    plan: Plan | None = None
    tightened: float = 1.0
    exclusive: bool = False

    def perform(self, report: Report, stop: Stop) -> dict[str, Any] | None:
        return Cutting(self, report, stop).run()

    def facts(self) -> str:
        """What must not change when the work goes on."""
        said = [
            self.design.hash,
            hashlib.sha256(Path(self.weights).read_bytes()).hexdigest(),
            self.pruning.to_json(),
            repr(replace(self.training, steps=1)),
            repr(self.data),
            self.seed,
            None if self.plan is None else self.plan.to_json(),
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass
class Progress:
    """Where a cutting stands: the plan so far, phases done, training steps spent, a row for each step of the path."""

    plan: Plan
    phase: int = 0
    steps: int = 0
    stream: list[int] | None = None
    path: list[dict[str, Any]] = field(default_factory=list)


class Cutting:
    """One work under way."""

    def __init__(self, work: CutWork, report: Report, stop: Stop) -> None:
        self.work, self.report, self.stop = work, report, stop
        self.pruning, self.folder = work.pruning, Path(work.folder)
        self.loss = "l1" if work.training.loss in OF_EXITS else work.training.loss  # inference forms have no exits
        whole = with_weights(work.design, Path(work.weights)).to(work.device)
        self.network: nn.Module = without_batch_norm(inference_form(whole)).eval()
        self.meter = Meter(work.design, work.protocol, work.estimate, work.device)
        unknown_here = [name for name in work.pruning.budget if name not in self.meter.whole]
        if unknown_here and work.plan is None:
            raise InputError(f"budget.{unknown_here[0]}: cannot be known here: {BUDGETS[unknown_here[0]]}")
        self.gates: Gates = attach(self.network)
        self.at = Progress(Plan(work.design.architecture.hash))
        self.budget = Budget(
            {n: s * (work.tightened if n == "latency_ratio" else 1) for n, s in work.pruning.limits.shares.items()}
        )

    def run(self) -> dict[str, Any] | None:
        """All that is left to do; None where a stop was asked for."""
        self._load()
        if not self.at.path:
            self._note("start", psnr=True)
        for _ in self._phases():
            if self.stop():
                return None
            self.at.phase += 1
            self._save()
        return None if self.stop() else self._finished()

    def _phases(self) -> Iterator[None]:
        """What is done between two savings, one after another, until the budget is met."""
        if self.work.plan is not None:
            plan = self.meter.settled(self.work.plan)
            if self.at.plan != plan:
                self._cut_to(plan, "cut")
                yield
            return
        yield from {"one_shot": self._one_shot, "gradual": self._gradual, "tick_tock": self._tick_tock}[
            self.pruning.schedule
        ]()

    def _met(self) -> bool:
        return self.budget.met(self.meter.shares(self.at.plan))

    # ---- schedules

    def _one_shot(self) -> Iterator[None]:
        while not self._met():
            if self.pruning.criterion in PRUNERS:
                self._cut_to(self._decided_by_nni(), "cut")
            else:
                self._cut(self._scores(), self.budget)
            yield

    def _gradual(self) -> Iterator[None]:
        """Cuts that go equal parts of the way; after each but the last all is trained. Scores are always new."""
        while not self._met():
            part = min(1.0, (self.at.phase + 1) / self.pruning.cuts)
            self._cut(self._scores(), self.budget, self.budget.towards(part).met)
            if part < 1 and not self._met():
                self._train(self.pruning.between)
            yield

    def _tick_tock(self) -> Iterator[None]:
        """Source: You et al. 2019, "Gate Decorator", section 3.3 and algorithm 1; one tock comes first."""
        while not self._met():
            if self.at.phase % (self.pruning.ticks + 1) == 0:
                self._train(self.pruning.tock_steps, self._price_on_gates)
                self._note("tock", psnr=True)
            else:
                kept = self.meter.shares(self.at.plan)["kept"] * (1 - self.pruning.tick_share)
                scores = self._tick()
                self._cut(scores, self.budget, lambda s, kept=kept: self.budget.met(s) or s["kept"] <= kept, "tick")
            yield

    # ---- steps

    def _cut(self, scores: Scores, budget: Budget, enough: Any = None, stage: str = "cut") -> None:
        pruning = self.pruning
        decider = Decider(self.meter, pruning.strategy, pruning.floor, pruning.step, pruning.per_cost, self.at.stream)
        options, refused = [], None
        known = self._branches() if stage == "cut" else {}
        for branches in [known, {}] if known else [{}]:
            try:
                options.append(decider.decide(self.at.plan, scores, budget, branches, enough))
            except InputError as error:
                refused = refused or error
        if refused is not None and not options:
            raise refused
        self.at.stream = None if decider.stream is None else list(decider.stream)
        self._cut_to(self._best(options), stage)

    def _best(self, plans: Sequence[Plan]) -> Plan:
        """The plan that costs least: measured, for what scores say of branches and of channels adds up differently."""
        if all(plan == plans[0] for plan in plans):
            return plans[0]
        batches = list(self._batches(min(self.pruning.batches, BRANCH_BATCHES)))

        def loss(plan: Plan) -> float:
            with masked(self.network, plan), torch.no_grad():
                return sum(float(LOSSES[self.loss](self.network(lr), hr)) for lr, hr in batches)

        return min(plans, key=loss)

    def _cut_to(self, plan: Plan, stage: str) -> None:
        self.at.plan = plan
        self.gates.keep({name: sides for name, sides in plan.kept.items() if name in self.gates})
        self._note(stage, psnr=stage != "tick" or self._met())

    def _scores(self) -> Scores:
        generator = torch.Generator().manual_seed(mix(self.work.seed, self.at.phase))
        batches = self._batches(self.pruning.batches)
        return CRITERIA[self.pruning.criterion](self.network, self.gates, batches, LOSSES[self.loss], generator)

    def _branches(self) -> dict[str, float]:
        """The scores of whole branches, for the strategy that takes them and the criterion that has the same unit."""
        if self.pruning.strategy != "inner" or self.pruning.criterion != MEASURED_WITH:
            return {}
        few = min(self.pruning.batches, BRANCH_BATCHES)
        batches = list(self._batches(few))
        found = branch_scores(self.network, self.gates, self.meter.slots.branches, batches, LOSSES[self.loss])
        return {node: score * self.pruning.batches / few for node, score in found.items()}

    def _decided_by_nni(self) -> Plan:
        """The plan of the pruner of nni that closes least of what keeps the budget: its sparsity is searched for."""
        whole = inference_form(with_weights(self.work.design, Path(self.work.weights)).to(self.work.device))
        batches = list(self._batches(self.pruning.batches))
        architecture, loss = self.work.design.architecture.hash, LOSSES[self.loss]

        def at(sparsity: float) -> Plan:
            name = self.pruning.criterion
            return self.meter.settled(nni_plan(name, whole, self.meter.flow, architecture, sparsity, batches, loss))

        low, high = 0.0, MOST_SPARSE
        found = at(high)
        if not self.budget.met(self.meter.shares(found)):
            told = ", ".join(f"{n} {self.meter.shares(found)[n]:.3f}" for n in self.budget.shares)
            raise InputError(f"prune: '{self.pruning.criterion}' cannot reach {self.budget}; at most it leaves {told}")
        for _ in range(NNI_ROUNDS):
            middle = (low + high) / 2
            tried = at(middle)
            if self.budget.met(self.meter.shares(tried)):
                high, found = middle, tried
            else:
                low = middle
        if not self.meter.passes_image(found):
            raise InputError(f"prune: what '{self.pruning.criterion}' leaves is the enlarged image alone")
        return found

    def _tick(self) -> Scores:
        """Trains the gates alone and adds up |gate x gradient| on the way; another criterion scores after it."""
        parameters = list(self.gates.parameters())
        optimiser = torch.optim.Adam(parameters, lr=self._rate(), betas=(0.9, 0.99))
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        batches = self._batches(self.pruning.tick_steps)
        for gradients in gradients_of(self.network, parameters, batches, LOSSES[self.loss]):
            for total, parameter, gradient in zip(sums, parameters, gradients, strict=True):
                total += (parameter.detach() * gradient).abs()
                parameter.grad = gradient
            optimiser.step()
            self.at.steps += 1
        optimiser.zero_grad()
        if self.pruning.criterion != MEASURED_WITH:
            return self._scores()
        found = iter(sums)
        return {name: (next(found), None if gate.into is None else next(found)) for name, gate in self.gates.items()}

    def _train(self, steps: int, extra: Extra | None = None) -> None:
        """Trains all weights and gates for some steps; what is closed stays so."""
        training = replace(
            self.work.training,
            steps=steps,
            learning_rate=self._rate(),
            schedule="cosine",
            milestones=(),
            loss=self.loss,
            ema=None,
            grow_at=(),
        )
        state = State(self.network, optimiser_of(self.network, training), None)
        done = self.at.steps

        def after(state: State) -> bool:
            self.report({"step": done + state.step, "steps": done + steps})
            return self.stop()

        patches = self._patches(training)
        train(state, training, patches, steps, after, extra)
        self.at.steps += steps

    def _price_on_gates(self, lr: Tensor, sr: Tensor) -> Tensor:
        return self.pruning.gate_decay * torch.cat([gate.flatten() for gate in self.gates.parameters()]).abs().sum()

    def _rate(self) -> float:
        return self.work.training.learning_rate * self.pruning.rate_share

    def _patches(self, training: Training) -> Patches:
        """Others in every phase."""
        seed = mix(self.work.seed, 1_000_000 + self.at.phase)
        return Patches(self.work.data.train(), training.patch, training.batch, seed, self.work.device)

    def _batches(self, count: int) -> Iterator[Batch]:
        patches = self._patches(self.work.training)
        for step in range(count):
            self.report({"step": step, "steps": count})
            yield patches.batch(step)

    # ---- what is kept

    def _note(self, stage: str, *, psnr: bool) -> None:
        """Adds a row to the path."""
        shares = self.meter.shares(self.at.plan)
        row: dict[str, Any] = {"stage": stage, "steps": self.at.steps, "plan": self.at.plan.to_json()}
        if psnr:
            row["psnr_db"] = evaluate(self.network, self.work.data.evaluation(), device=self.work.device).psnr_db
        names = {"kept": "channels", "latency_ratio": "estimated_ratio"}
        self.at.path.append({**row, **{names.get(name, name): share for name, share in shares.items()}})

    def _save(self) -> None:
        at, buffer = self.at, io.BytesIO()
        content = {
            "facts": self.work.facts(),
            "network": self.network.state_dict(),
            "at": json.dumps([at.plan.to_json(), at.phase, at.steps, at.stream, at.path]),
        }
        torch.save(content, buffer)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / "cutting.pt", buffer.getvalue())

    def _load(self) -> None:
        """Goes on from the saved state of this very work, if there is one that can be read."""
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        try:
            saved = torch.load(self.folder / "cutting.pt", map_location="cpu", weights_only=True)
            if saved["facts"] != self.work.facts():
                return
            plan, phase, steps, stream, path = json.loads(saved["at"])
            progress = Progress(Plan.from_json(plan), phase, steps, stream, path)
            self.network.load_state_dict(saved["network"])
            self.at = progress
        except UNREADABLE:
            self.network.load_state_dict(before)  # half of it may have been taken over

    def _finished(self) -> dict[str, Any]:
        """Folds the gates, cuts, verifies, writes the weights; gives what there is to be told."""
        self.gates.fold()
        plan, flow = self.at.plan, trace(self.network)
        forms = {form: compact(flow, plan, form) for form in ("run", *(f for f in FORMS if f != "run"))}
        verification = verify(self.network, plan, forms)
        design = Design(self.work.design.architecture, plan)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_weights(forms["train"], design, self.folder / CUT)
        sides = plan.kept
        kept = [
            {
                "name": name,
                "outputs": [len(sides[name][0]) if name in sides else outputs, outputs],
                "inputs": [len(sides[name][1]) if name in sides else inputs, inputs],
            }
            for name, (outputs, inputs) in self.meter.flow.widths.items()
        ]
        return {
            "plan": plan.to_json(),
            "path": self.at.path,
            "kept": kept,
            "steps": self.at.steps,
            "verified": verification.summary(),
            "shares": self.meter.shares(plan),
        }
