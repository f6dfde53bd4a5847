//! The creates as a picture: a bar for each median, a whisker to the 95th percentile.

use std::fmt::Write as _;

use super::results::{Results, Section, Series};

/// In pixels.
const LABELS: f64 = 350.0;
const BARS: f64 = 420.0;
const MARGIN: f64 = 70.0;
const ROW: f64 = 30.0;
const TOP: f64 = 16.0;
const BAR: f64 = 16.0;

/// Colours that can be told apart on light and on dark ground, by people who see red and green alike, too.
const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#24292f}.value{font-variant-numeric:tabular-nums}.other{fill:#8c959f}\
.ours{fill:#0969da}.whisker{stroke:#24292f;stroke-width:1.5}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.other{fill:#6e7681}.ours{fill:#4493f8}.whisker{stroke:#e6edf3}}";

pub(super) fn of(results: &Results) -> String {
    let rows: Vec<&Series> = results.of(Section::Create).collect();
    let p95 = |series: &Series| series.quantile(0.95).unwrap_or_default();
    let longest = rows.iter().map(|series| p95(series)).fold(1.0, f64::max);
    let length = |milliseconds: f64| milliseconds / longest * BARS;
    let (width, mut y) = (LABELS + BARS + MARGIN, TOP);
    let mut bars = String::new();
    for series in rows {
        let is_ours = series.what.starts_with("**");
        let class = if is_ours { "ours" } else { "other" };
        let label = series
            .what
            .replace(['*', '`'], "")
            .replace('&', "&amp;")
            .replace('<', "&lt;");
        let (p50, p95) = (series.p50().unwrap_or_default(), p95(series));
        let (middle, end) = (y + BAR / 2.0, LABELS + length(p95));
        // Writing to a String can't fail.
        let _ = writeln!(
            bars,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <path class=\"whisker\" d=\"M{:.1} {middle}H{end:.1}M{end:.1} {}v8\"/>\
             <text class=\"value\" x=\"{:.1}\" y=\"{:.0}\">{p50:.0} ms</text>",
            LABELS - 10.0,
            y + 13.0,
            length(p50),
            LABELS + length(p50),
            middle - 4.0,
            end + 8.0,
            y + 13.0,
        );
        y += ROW;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" height=\"{y}\" role=\"img\" \
         aria-label=\"Time from the call to the first answered query\">\n<style>{STYLE}</style>\n{bars}</svg>\n"
    )
}
