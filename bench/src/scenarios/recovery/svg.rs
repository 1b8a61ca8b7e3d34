//! Plots as inline SVG: axes, lines, marks. As much as the report needs, and no script in it.

use std::fmt::Write;

/// Colours that are told apart also by those who see red and green alike (Okabe and Ito).
pub(crate) const COLOURS: [&str; 9] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5c00", "#000000", "#8a2be2"];

const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// One axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) is_log: bool,
}

impl Axis {
    pub(crate) fn linear(label: &'static str, min: f64, max: f64) -> Self {
        Self { label, min, max: if max > min { max } else { min + 1.0 }, is_log: false }
    }

    /// From a power of ten to a power of ten around the values.
    pub(crate) fn log(label: &'static str, min: f64, max: f64) -> Self {
        let (min, max) = (min.max(1e-3), max.max(1e-2));
        let (low, high) = (min.log10().floor(), max.log10().ceil());
        Self { label, min: 10_f64.powf(low), max: 10_f64.powf(high.max(low + 1.0)), is_log: true }
    }

    /// Where a value lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.min) / self.min).log10() / (self.max / self.min).log10()
        } else {
            (value - self.min) / (self.max - self.min)
        };
        share.clamp(0.0, 1.0)
    }

    /// Values that get a line and a number.
    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let (low, high) = (self.min.log10().round() as i32, self.max.log10().round() as i32);
            return (low..=high).map(|power| 10_f64.powi(power)).collect();
        }
        let rough = (self.max - self.min) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.min / step).ceil();
        (0..20)
            .map(|n| (first + f64::from(n)) * step)
            .take_while(|tick| *tick <= self.max * 1.000_001)
            .collect()
    }
}

/// A plot under construction.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    width: f64,
    height: f64,
    x: Axis,
    y: Axis,
    body: String,
    legend: Vec<(String, &'static str)>,
}

impl Plot {
    pub(crate) fn new((width, height): (f64, f64), x: Axis, y: Axis) -> Self {
        Self { width, height, x, y, body: String::new(), legend: Vec::new() }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (width, height) = (self.width - LEFT - RIGHT, self.height - TOP - BOTTOM);
        (LEFT + self.x.share(x) * width, TOP + (1.0 - self.y.share(y)) * height)
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(text);
    }

    /// A line through points; `steps`: each value holds until the next.
    pub(crate) fn line(&mut self, points: &[(f64, f64)], colour: &str, steps: bool) {
        let mut path = String::new();
        let mut last: Option<f64> = None;
        for (x, y) in points {
            let (x, y) = self.at(*x, *y);
            let _ = match last {
                None => write!(path, "M{x:.1} {y:.1}"),
                Some(before) if steps => write!(path, "L{x:.1} {before:.1}L{x:.1} {y:.1}"),
                Some(_) => write!(path, "L{x:.1} {y:.1}"),
            };
            last = Some(y);
        }
        self.put(format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>"));
    }

    /// Dots, in one path: thousands of them stay small.
    pub(crate) fn dots(&mut self, points: &[(f64, f64)], colour: &str) {
        let mut path = String::new();
        for (x, y) in points {
            let (x, y) = self.at(*x, *y);
            let _ = write!(path, "M{x:.1} {y:.1}h0");
        }
        self.put(format_args!(
            "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"2.4\" stroke-linecap=\"round\"/>"
        ));
    }

    /// Short strokes upwards from the axis.
    pub(crate) fn strokes(&mut self, xs: &[f64], colour: &str) {
        let mut path = String::new();
        for x in xs {
            let (x, y) = self.at(*x, self.y.min);
            let _ = write!(path, "M{x:.1} {y:.1}v-9");
        }
        self.put(format_args!("<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"0.9\"/>"));
    }

    /// A line across the plot at one x, with a word at it; `level` puts words of neighbours below each other.
    pub(crate) fn upright(&mut self, x: f64, word: &str, level: u32) {
        let ((px, top), (_, bottom)) = (self.at(x, self.y.max), self.at(x, self.y.min));
        let y = top + 11.0 + 13.0 * f64::from(level);
        let near_end = px > self.width * 0.8;
        let (tx, anchor) = if near_end { (px - 4.0, "end") } else { (px + 4.0, "start") };
        self.put(format_args!(
            "<line x1=\"{px:.1}\" y1=\"{top:.1}\" x2=\"{px:.1}\" y2=\"{bottom:.1}\" class=\"mark\"/>\
             <text x=\"{tx:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"word\">{word}</text>"
        ));
    }

    /// A horizontal bar from the axis to `value` in the row `row` of `rows`, with whiskers and a mark.
    pub(crate) fn bar(&mut self, (row, rows): (usize, usize), value: f64, colour: &str, opacity: f64) {
        let (y, height) = self.row(row, rows);
        let ((x0, _), (x1, _)) = (self.at(self.x.min, 0.0), self.at(value, 0.0));
        self.put(format_args!(
            "<rect x=\"{x0:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" \
             fill-opacity=\"{opacity}\"/>",
            y - height * 0.32,
            (x1 - x0).max(1.0),
            height * 0.64
        ));
    }

    /// An interval on a row.
    pub(crate) fn whisker(&mut self, (row, rows): (usize, usize), [low, high]: [f64; 2]) {
        let (y, height) = self.row(row, rows);
        let ((x0, _), (x1, _)) = (self.at(low, 0.0), self.at(high, 0.0));
        let half = height * 0.16;
        self.put(format_args!(
            "<path d=\"M{x0:.1} {y:.1}H{x1:.1}M{x0:.1} {:.1}v{:.1}M{x1:.1} {:.1}v{:.1}\" stroke=\"#222\" \
             stroke-width=\"1.2\" fill=\"none\"/>",
            y - half,
            2.0 * half,
            y - half,
            2.0 * half
        ));
    }

    /// A thick short line at a value of a row.
    pub(crate) fn tick(&mut self, (row, rows): (usize, usize), value: f64, colour: &str) {
        let (y, height) = self.row(row, rows);
        let (x, _) = self.at(value, 0.0);
        self.put(format_args!(
            "<path d=\"M{x:.1} {:.1}v{:.1}\" stroke=\"{colour}\" stroke-width=\"3\"/>",
            y - height * 0.42,
            height * 0.84
        ));
    }

    fn row(&self, row: usize, rows: usize) -> (f64, f64) {
        let height = (self.height - TOP - BOTTOM) / rows.max(1) as f64;
        (TOP + height * (row as f64 + 0.5), height)
    }

    /// A word for a colour.
    pub(crate) fn name(&mut self, name: impl Into<String>, colour: &'static str) {
        self.legend.push((name.into(), colour));
    }

    /// The element, numbers on both axes; with `rows` names instead of numbers on the left.
    pub(crate) fn finish(self, rows: &[String]) -> String {
        let Self { width, height, ref x, ref y, ref body, ref legend } = self;
        let wide = if rows.is_empty() { 0.0 } else { 108.0 };
        let mut out = format!(
            "<svg viewBox=\"{:.0} 0 {:.0} {height:.0}\" role=\"img\" preserveAspectRatio=\"xMinYMin meet\">",
            -wide,
            width + wide
        );
        let (bottom, right) = (height - BOTTOM, width - RIGHT);
        for tick in x.ticks() {
            let (at, _) = self.at(tick, 0.0);
            let _ = write!(
                out,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" class=\"grid\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                number(tick)
            );
        }
        if rows.is_empty() {
            for tick in y.ticks() {
                let (_, at) = self.at(x.min, tick);
                let _ = write!(
                    out,
                    "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" class=\"grid\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    LEFT - 6.0,
                    at + 4.0,
                    number(tick)
                );
            }
            let middle = TOP + (bottom - TOP) / 2.0;
            let _ = write!(
                out,
                "<text transform=\"rotate(-90)\" x=\"{:.1}\" y=\"14\" text-anchor=\"middle\" class=\"axis\">{}</text>",
                -middle, y.label
            );
        }
        for (index, name) in rows.iter().enumerate() {
            let (at, _) = self.row(index, rows.len());
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        let _ = write!(
            out,
            "{body}<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#444\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" class=\"axis\">{}</text></svg>",
            LEFT + (right - LEFT) / 2.0,
            height - 8.0,
            x.label
        );
        if !legend.is_empty() {
            out.push_str("<p class=\"legend\">");
            for (name, colour) in legend {
                let _ = write!(out, "<span><i style=\"background:{colour}\"></i>{name}</span> ");
            }
            out.push_str("</p>");
        }
        out
    }
}

fn number(value: f64) -> String {
    let text = if value.abs() >= 1e4 && value % 1_000.0 == 0.0 {
        format!("{}k", value / 1_000.0)
    } else if value.abs() >= 10.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if text == "-0" { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_within_them() {
        assert_eq!(Axis::linear("", 0.0, 47.0).ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(Axis::log("", 0.7, 320.0).ticks(), [0.1, 1.0, 10.0, 100.0, 1000.0]);
        let log = Axis::log("", 1.0, 100.0);
        assert!((log.share(10.0) - 0.5).abs() < 1e-9 && log.share(0.0) == 0.0 && log.share(1e9) == 1.0);
        assert_eq!([0.001, 0.5, 3.0, 1_000.0, 20_000.0].map(number), ["0.001", "0.5", "3", "1000", "20k"]);
    }

    #[test]
    fn a_plot_of_nothing_is_still_one() {
        let plot = Plot::new((300.0, 200.0), Axis::linear("x", 0.0, 0.0), Axis::linear("y", 0.0, 0.0));
        let text = plot.finish(&[]);
        assert!(text.starts_with("<svg") && text.ends_with("</svg>") && !text.contains("NaN"));
    }
}
