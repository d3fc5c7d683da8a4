from .report import Report as Report
from .run import ReportResult as ReportResult, run_report as run_report
from .settings import ReportSettings as ReportSettings
