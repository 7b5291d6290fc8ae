"""From records to tables and figures. No torch; matplotlib is imported only to draw.

May use: config, paths, results, scratch.
"""

from stat_repro.reporting.canvas import save
from stat_repro.reporting.comparison import compare
from stat_repro.reporting.comparison_table import (
    comparison_csv,
    comparison_notes,
    comparison_sources,
    comparison_table,
)
from stat_repro.reporting.cost_figures import cost_figure_data, draw_costs
from stat_repro.reporting.costs import (
    cost_csv,
    cost_notes,
    cost_points,
    cost_sources,
    cost_table,
    measured_runs,
)
from stat_repro.reporting.figures import draw, figure_data
from stat_repro.reporting.gpu_figures import (
    draw_inference,
    draw_stages,
    inference_data,
    stages_data,
)
from stat_repro.reporting.growth import draw_growth, growth_data
from stat_repro.reporting.points import (
    aggregate,
    headline,
    protocol_lines,
    record_lines,
)
from stat_repro.reporting.setting_figures import draw_setting, setting_figures
from stat_repro.reporting.speed_table import speed_notes, speed_sources, speed_table
from stat_repro.reporting.tables import (
    noted_csv,
    result_table,
    summary_table,
    table_sources,
    to_csv,
    to_latex,
    to_markdown,
    to_text,
)
from stat_repro.reporting.variants import ReportError
from stat_repro.scratch import replace_file
