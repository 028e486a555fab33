"""A result in words. What a score says and what it does not say stands beside it."""

from __future__ import annotations

from bisect import bisect_right

from .jobs import Result


def describe_result(result: Result, most_shown: int) -> str:
    """The volume's score, its p-value and the candidates, of which no more than ``most_shown`` are shown, in sentences."""
    account = result.account
    count = len(account["candidates"])
    found = "No candidate" if count == 0 else "1 candidate" if count == 1 else f"{count} candidates"
    sentences = [f"{found} at or above {result.threshold:g}."]
    if count > most_shown:
        sentences.append(f"The hottest {most_shown} are listed and marked; the table in the scene has them all.")
    p_value = account.get("p_value")
    if p_value is not None:
        sentences.append(
            f"Score {account['score']:.3g}, p = {p_value:.3g}: of 100 volumes like the normal ones it was calibrated on, "
            f"about {_count_in_hundred(float(p_value))} would score this high or higher."
        )
    else:
        sentences.append(f"Score {account['score']:.3g}: a model probability, not calibrated, so no p-value.")
    run = account.get("run", {})
    caveat = run.get("calibration_caveat")
    if p_value is not None and caveat:
        sentences.append(f"{str(caveat).rstrip('.')}.")
    if run.get("demonstration"):
        sentences.append("Demonstration adapters: this says nothing about a patient.")
    sentences.append("For research, not for clinical use.")
    return " ".join(sentences)


def describe_threshold(result: Result, threshold: float) -> str:
    """What a threshold did to the calibration's normal volumes; empty where the adapters do not know.

    Counts exist at some thresholds; the next lower one's is told, which is rather too many than too few.
    """
    operating = result.account.get("operating")
    if not operating:
        return ""
    at = bisect_right(operating["thresholds"], threshold) - 1
    if at < 0:
        return f"Below {operating['thresholds'][0]:.3g} candidates in normal volumes were not counted."
    least = f" of {operating['minimum_ml']:g} ml or more" if operating["minimum_ml"] else ""
    return (
        f"{operating['thresholds'][at]:.7g}: {operating['candidates'][at]:.2g} candidates{least} a normal volume, on average "
        f"over the {operating['volumes']} of the calibration."
    )


def _count_in_hundred(p_value: float) -> str:
    share = 100.0 * p_value
    return "fewer than 1" if share < 1.0 else f"{share:.0f}"
