//! The two kinds of plots: values over the number of connections, and CPU time as stacked bars.

use crate::results::Spread;
use crate::svg::{Anchor, Svg};

/// Told apart by people who see colours differently too (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a6d3b",
];
const GRID: &str = "#ddd";
const AXIS: &str = "#555";

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const LEGEND: f64 = 240.0;
const TOP: f64 = 55.0;
const BOTTOM: f64 = 50.0;

/// Values of one subject over the number of connections.
#[derive(Debug)]
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) points: Vec<(u32, Spread)>,
}

/// How values stand on the upright axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten.
    Logarithmic,
}

/// A part of each bar, of one process.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    /// Process and value; processes in the same order in all bars.
    pub(crate) parts: Vec<(String, f64)>,
}

/// The upright axis: which values lie where.
struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
    top: f64,
    bottom: f64,
}

/// Curves with marks of their spread.
pub(crate) fn curves(title: &str, unit: &str, scale: Scale, curves: &[Curve]) -> String {
    const HEIGHT: f64 = 400.0;
    let mut svg = Svg::new(WIDTH, HEIGHT, title);
    svg.heading((LEFT, 22.0), title);
    svg.text((LEFT, 38.0), Anchor::Start, unit);
    let axis = Axis::around(curves, scale, HEIGHT - BOTTOM);
    let right = WIDTH - LEGEND;
    for tick in axis.ticks() {
        let y = axis.place(tick);
        svg.line((LEFT, y), (right, y), GRID, 1.0);
        svg.text((LEFT - 6.0, y + 4.0), Anchor::End, &number(tick));
    }
    let mut connections: Vec<u32> = curves
        .iter()
        .flat_map(|curve| curve.points.iter().map(|(connections, _)| *connections))
        .collect();
    connections.sort_unstable();
    connections.dedup();
    let across = |of: u32| place_across(&connections, of, LEFT + 25.0, right - 25.0);
    for &of in &connections {
        let label = (across(of), axis.bottom + 18.0);
        svg.text(label, Anchor::Middle, &of.to_string());
    }
    let middle = f64::midpoint(LEFT, right);
    svg.text((middle, HEIGHT - 12.0), Anchor::Middle, "connections");
    svg.line((LEFT, axis.bottom), (right, axis.bottom), AXIS, 1.0);
    for (number, (curve, colour)) in curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let at = |(of, spread): &(u32, Spread)| (across(*of), axis.place(spread.median));
        svg.path(&curve.points.iter().map(at).collect::<Vec<_>>(), colour);
        for (of, spread) in &curve.points {
            let x = across(*of);
            let ends = ((x, axis.place(spread.least)), (x, axis.place(spread.most)));
            svg.line(ends.0, ends.1, colour, 1.0);
            svg.dot((x, axis.place(spread.median)), colour);
        }
        legend(&mut svg, number, colour, &curve.label);
    }
    svg.finish()
}

/// A bar for each subject, with a part for each process.
pub(crate) fn bars(title: &str, unit: &str, bars: &[Bar]) -> String {
    const BAR: f64 = 22.0;
    const STEP: f64 = 32.0;
    const LABELS: f64 = 210.0;
    let rows: f64 = bars.iter().map(|_| STEP).sum();
    let mut svg = Svg::new(WIDTH, TOP + rows + BOTTOM, title);
    svg.heading((20.0, 22.0), title);
    svg.text((20.0, 38.0), Anchor::Start, unit);
    let total = |bar: &Bar| bar.parts.iter().map(|(_, value)| value).sum::<f64>();
    let most = bars.iter().map(total).fold(1e-9, f64::max);
    let scale = (WIDTH - LABELS - 80.0) / most;
    let processes = processes(bars);
    let mut y = TOP;
    for bar in bars {
        svg.text((LABELS - 8.0, y + 15.0), Anchor::End, &bar.label);
        let mut x = LABELS;
        for (process, value) in &bar.parts {
            let number = processes.iter().position(|name| *name == process);
            let colour = COLOURS[number.unwrap_or_default() % COLOURS.len()];
            svg.bar((x, y), (value * scale, BAR), colour);
            x += value * scale;
        }
        let sum = format!("{:.0}", total(bar));
        svg.text((x + 6.0, y + 15.0), Anchor::Start, &sum);
        y += STEP;
    }
    let mut x = LABELS;
    for (process, colour) in processes.iter().zip(COLOURS.iter().cycle()) {
        svg.bar((x, y + 12.0), (12.0, 12.0), colour);
        svg.text((x + 18.0, y + 22.0), Anchor::Start, process);
        x += 110.0;
    }
    svg.finish()
}

fn processes(bars: &[Bar]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in bars.iter().flat_map(|bar| &bar.parts) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn legend(svg: &mut Svg, number: usize, colour: &str, label: &str) {
    let y = (0..number).fold(TOP + 15.0, |y, _| y + 22.0);
    let x = WIDTH - LEGEND + 15.0;
    svg.line((x, y), (x + 22.0, y), colour, 3.0);
    svg.text((x + 30.0, y + 4.0), Anchor::Start, label);
}

/// Numbers of connections stand by their logarithm.
fn place_across(all: &[u32], of: u32, left: f64, right: f64) -> f64 {
    let log = |connections: u32| f64::from(connections.max(1)).ln();
    let (Some(&first), Some(&last)) = (all.first(), all.last()) else {
        return left;
    };
    if first == last {
        return f64::midpoint(left, right);
    }
    left + (right - left) * (log(of) - log(first)) / (log(last) - log(first))
}

impl Axis {
    fn around(curves: &[Curve], scale: Scale, bottom: f64) -> Self {
        let spreads = || {
            let points = curves.iter().flat_map(|curve| &curve.points);
            points.map(|(_, spread)| spread)
        };
        let most = spreads().map(|spread| spread.most).fold(1e-9, f64::max);
        let least = spreads().map(|spread| spread.least).fold(most, f64::min);
        let (least, most) = match scale {
            Scale::Linear => (0.0, most * 1.05),
            Scale::Logarithmic => (
                10_f64.powf(least.max(1e-9).log10().floor()),
                10_f64.powf(most.log10().ceil()),
            ),
        };
        Self {
            scale,
            least,
            most,
            top: TOP,
            bottom,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => {
                let value = value.max(self.least);
                (value / self.least).ln() / (self.most / self.least).ln()
            }
        };
        self.bottom - share * (self.bottom - self.top)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.most / 6.0);
                let ticks = std::iter::successors(Some(0.0), |tick| Some(tick + step));
                ticks.take_while(|tick| *tick <= self.most).collect()
            }
            Scale::Logarithmic => {
                let ticks = std::iter::successors(Some(self.least), |tick| Some(tick * 10.0));
                // What floating point makes of the last power must not lose it.
                ticks.take_while(|tick| *tick <= self.most * 1.01).collect()
            }
        }
    }
}

/// The round number (1, 2 or 5 times a power of ten) that is not less.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    if value >= 1_000.0 {
        format!("{} k", round(value / 1_000.0))
    } else {
        round(value)
    }
}

/// Without the zeros that say nothing.
fn round(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(value: f64) -> Spread {
        Spread {
            median: value,
            least: value,
            most: value,
        }
    }

    #[test]
    fn steps_and_numbers_are_round() {
        assert_eq!([3.0, 14.0, 0.7].map(step), [5.0, 20.0, 1.0]);
        assert_eq!([20_000.0, 0.1, 0.0].map(number), ["20 k", "0.1", "0"]);
    }

    #[test]
    fn more_lies_higher_and_further_right() {
        let curve = Curve {
            label: "a".to_owned(),
            points: vec![(1, spread(0.3)), (64, spread(40.0))],
        };
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let axis = Axis::around(std::slice::from_ref(&curve), scale, 300.0);
            assert!(axis.place(40.0) < axis.place(0.3) && axis.place(40.0) >= TOP);
            assert!(axis.place(0.3) <= 300.0 && axis.ticks().len() > 2);
        }
        assert!(place_across(&[1, 64], 64, 0.0, 9.0) > place_across(&[1, 64], 1, 0.0, 9.0));
    }
}
