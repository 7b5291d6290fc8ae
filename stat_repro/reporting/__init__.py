"""From records to tables and figures. No torch; matplotlib is imported only to draw.

May use: config, paths, results, scratch.
"""

from stat_repro.reporting.canvas import draw, save
from stat_repro.reporting.comparison import compare, compare_pairs
from stat_repro.reporting.comparison_table import (
    comparison_csv,
    comparison_notes,
    comparison_sources,
    comparison_table,
)
from stat_repro.reporting.cost_figures import cost_figures
from stat_repro.reporting.costs import (
    cost_csv,
    cost_notes,
    cost_points,
    cost_sources,
    cost_table,
    measured_runs,
)
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.healing_figures import healing_figures
from stat_repro.reporting.layer_figures import layer_figures
from stat_repro.reporting.outputs import Outputs, speed_outputs, study_outputs, write_outputs
from stat_repro.reporting.points import aggregate, headline, protocol_lines, record_lines
from stat_repro.reporting.report_page import StudyPage, report_page, study_page
from stat_repro.reporting.setting_figures import setting_figures
from stat_repro.reporting.speed_figures import growth_figure, inference_figure, stages_figure
from stat_repro.reporting.speed_table import speed_notes, speed_sources, speed_table
from stat_repro.reporting.sweep_headers import sweep_header
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
