"""CELLS: all that is simulated, by name, in the order of the table."""

from collections.abc import Mapping

from calibration.cell import Cell
from calibration.histories import HISTORY_CELLS
from calibration.pair_cells import PAIR_CELLS
from calibration.plans import PLAN_CELLS
from calibration.run_cells import RUN_CELLS

CELLS: Mapping[str, Cell] = {**PAIR_CELLS, **RUN_CELLS, **HISTORY_CELLS, **PLAN_CELLS}
