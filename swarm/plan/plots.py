"""Plans as a picture: where a round's time goes by shard, or the front of plans."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from swarm.picture import new_figure, write_png
from swarm.plan.cost import rates, stage_cost
from swarm.plan.solve import Ask, Found


def draw(path: Path, ask: Ask, found: Sequence[Found]) -> None:
    """Write a PNG: several plans as a front, one as its shards. Raises NoPlot."""
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    if len(found) > 1:
        seconds = [one.seconds * 1000 for one in found]
        axes.plot(seconds, [one.joules * 1000 for one in found], "o-", color="#2c5f8a", label="joules")
        axes.set_xlabel("seconds, 1,000 tokens, averaged over days")
        axes.set_ylabel("joules", color="#2c5f8a")
        other = axes.twinx()
        other.plot(seconds, [one.grams * 1000 for one in found], "s--", color="#c0392b", label="g CO2e")
        other.set_ylabel("g CO2e", color="#c0392b")
        axes.set_title(f"{ask.job.model}: no plan is better than another in everything")
    else:
        plan, stages = found[0].plan, found[0].stages
        job, end = replace(ask.job, slices=plan.slices), len(stages) - 1
        kinds = [rates(device, ask.world, day=False) for device in ask.devices]
        labels, busy, cells = [], [], []
        for at, stage in enumerate(stages):
            cost = stage_cost(job, stage, at == 0, at == end, kinds, ask.world.ring_bytes)
            busy.append(cost.busiest + cost.fill)
            cells.append(cost.cell)
            labels.append(f"{at}: {stage.layers} layers, {stage.holders} holders")
        axes.barh(labels, busy, color="#2c5f8a", label="its busiest holder or link")
        axes.barh(labels, cells, left=busy, color="#c0392b", label="adding updates up, meeting, votes")
        axes.axvline(plan.forecast.seconds.value, color="black", linewidth=1, label="the round")
        axes.invert_yaxis()
        axes.set_xlabel("seconds of a round, while all are there")
        axes.set_title(f"{plan.model}: shards, their layers and holders")
        figure.legend(loc="outside lower center", ncols=3)
    write_png(figure, path)
