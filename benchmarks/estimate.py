"""How far `edgec estimate` is from published rates, each left out of what the estimate is fitted on.

rate       one published rate left out, all others known: the model on other chips too
model      every rate of that model left out: what a model of its own shape gets
elsewhere  chips that are in no fit: the share of the memory interface is taken from another
pair       gains of speculation; the acceptance is the mean behind the other pairs
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from common import arguments, report
from edgec.compiler.estimate.fit import fit, npu_fit
from edgec.compiler.estimate.lane_speed import chip_speed
from edgec.compiler.estimate.published import Rate, decode_work, npu_rates, published, shape_of
from edgec.compiler.estimate.speculation import predicted_gain, published_pairs
from edgec.compiler.plan.devices import devices


def predicted(rate: Rate, known: Sequence[Rate]) -> float:
    """The rate that a fit on `known` gives."""
    made = fit(known)
    part = rate.work.parts[0]
    seconds = made.seconds(rate.chip, part.weights, part.cache(rate.work.context)) * made.residual(rate.shape)
    return 1 / (seconds + published()["call"]["seconds"])


def rate_rows() -> list[dict[str, Any]]:
    """Every published rate with its two errors, as fractions."""
    rates, rows = npu_rates(), []
    for rate in rates:
        alone = predicted(rate, [one for one in rates if one is not rate])
        without = predicted(rate, [one for one in rates if one.model != rate.model])
        rows.append(
            {
                "chip": rate.chip,
                "model": rate.model,
                "published": rate.rate,
                "estimate": round(alone, 2),
                "error": round(alone / rate.rate - 1, 4),
                "error_model_out": round(without / rate.rate - 1, 4),
            }
        )
    return rows


def elsewhere_rows() -> list[dict[str, Any]]:
    """Rates on chips that no fit has seen."""
    rows = []
    for one in published()["elsewhere"]["rates"]:
        speed, work = chip_speed(devices()[one["chip"]]), decode_work(one["model"])
        seconds = speed.call_seconds(work, 1, work.context, npu_fit().residual(shape_of(one["model"])))
        rows.append({**one, "estimate": round(1 / seconds, 2), "error": round(1 / seconds / one["rate"] - 1, 4)})
    return rows


def pair_rows() -> list[dict[str, Any]]:
    """The published gains of speculation."""
    pairs, rows = published_pairs(), []
    for index, (row, (gain, cost, _)) in enumerate(zip(published()["speculation"]["pairs"], pairs, strict=True)):
        others = [acceptance for at, (*_, acceptance) in enumerate(pairs) if at != index]
        made = predicted_gain(cost, sum(others) / len(others))
        names = {key: row[key] for key in ("chip", "target", "draft")}
        figures = {"published": round(gain, 3), "estimate": round(made, 3), "error": round(made / gain - 1, 4)}
        rows.append({**names, "cost_of_a_draft": round(cost, 3), **figures})
    return rows


def main() -> None:
    """Print every error, then the medians and the worst."""
    args = arguments(__doc__)
    rates, elsewhere, pairs = rate_rows(), elsewhere_rows(), pair_rows()
    phones = [row for row in rates if row["chip"] in devices()]
    rows = [
        {"left_out": kind, **row}
        for kind, some in (("rate", rates), ("elsewhere", elsewhere), ("pair", pairs))
        for row in some
    ]
    summary = {
        "phones, median": _percent(median(abs(row["error"]) for row in phones)),
        "phones, largest": _percent(max(abs(row["error"]) for row in phones)),
        "phones, model out, median": _percent(median(abs(row["error_model_out"]) for row in phones)),
        "phones, model out, largest": _percent(max(abs(row["error_model_out"]) for row in phones)),
        "pairs, largest": _percent(max(abs(row["error"]) for row in pairs)),
    }
    report("Estimated against published rates", rows, args, **summary)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
