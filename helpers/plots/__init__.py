"""The charts of the course: each draws one figure, says it in one sentence, adds a small table."""

from helpers.plots.catalogue import catalogue
from helpers.plots.counts import counts
from helpers.plots.executions import executions, expected
from helpers.plots.fates import fates
from helpers.plots.rates import rates
from helpers.plots.sequence import sequence
from helpers.plots.shares import shares
from helpers.plots.strips import strips
from helpers.plots.survival import survival
from helpers.plots.timeline import timeline

__all__ = ["catalogue", "counts", "executions", "expected", "fates", "rates", "sequence"]
__all__ += ["shares", "strips", "survival", "timeline"]
