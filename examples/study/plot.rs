//! The plot of cost by size: both scales by powers, drawn as SVG.

use std::fmt::Write as _;

use crate::units::{size, time};

/// One method: its letter, which stands at the end of its line, and its points.
pub struct Curve {
    pub letter: char,
    /// Of the classes `c0` to `c7`.
    pub colour: usize,
    /// `auto`, `strict` or `volatile`: the dashes.
    pub durability: String,
    pub points: Vec<(f64, f64)>,
}

/// Pixels.
pub struct Frame {
    pub width: f64,
    pub height: f64,
}

const LEFT: f64 = 52.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;
const LETTER: f64 = 12.0;
/// The least between two sizes that are named.
const NAMED: f64 = 42.0;
/// Powers of two.
const EMPTY: f64 = 4.0;

/// From what is measured to where it stands.
struct Scales<'a> {
    frame: &'a Frame,
    /// Powers of two; an empty file stands four steps left of the smallest other one.
    x: (f64, f64),
    /// Powers of ten.
    y: (f64, f64),
    least: f64,
}

impl<'a> Scales<'a> {
    fn new(frame: &'a Frame, curves: &[Curve]) -> Self {
        let all = || curves.iter().flat_map(|curve| &curve.points);
        let sizes = || all().map(|point| point.0);
        let least = sizes().filter(|x| *x > 0.0).fold(f64::MAX, f64::min);
        let most = sizes().fold(least, f64::max);
        let has_empty = sizes().any(|x| x == 0.0);
        let y = all().map(|point| point.1.log10()).fold((f64::MAX, f64::MIN), |(a, b), y| (a.min(y), b.max(y)));
        let x = (least.log2() - if has_empty { EMPTY } else { 0.0 }, most.log2());
        Self { frame, x, y: (y.0 - 0.1, y.1 + 0.1), least }
    }

    fn x(&self, bytes: f64) -> f64 {
        let power = if bytes > 0.0 { bytes.log2() } else { self.least.log2() - EMPTY };
        LEFT + (power - self.x.0) / (self.x.1 - self.x.0).max(1.0) * (self.frame.width - LEFT - RIGHT)
    }

    fn y(&self, nanos: f64) -> f64 {
        let inside = self.frame.height - TOP - BOTTOM;
        TOP + (self.y.1 - nanos.log10()) / (self.y.1 - self.y.0) * inside
    }
}

/// Draws all. `title` is for who does not see it.
pub fn plot(frame: &Frame, curves: &[Curve], title: &str) -> String {
    let scales = Scales::new(frame, curves);
    let Frame { width, height } = frame;
    let mut svg =
        format!("<svg viewBox='0 0 {width} {height}' role='img' aria-label='{title}' style='max-width:{width}px'>\n");
    axes(&mut svg, &scales, curves);
    let mut ends: Vec<_> =
        curves.iter().filter_map(|curve| curve.points.last().map(|point| (scales.y(point.1), point, curve))).collect();
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    for curve in curves {
        let points: Vec<_> =
            curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", scales.x(*x), scales.y(*y))).collect();
        let Curve { colour, durability, .. } = curve;
        let _ = writeln!(svg, "<polyline class='line c{colour} {durability}' points='{}'/>", points.join(" "));
    }
    let mut heights: Vec<f64> = ends.iter().map(|end| end.0).collect();
    spread(&mut heights, (TOP, height - BOTTOM));
    for (at, (own, point, curve)) in heights.iter().zip(&ends) {
        let (from, to) = (scales.x(point.0), frame.width - RIGHT + 10.0);
        let Curve { colour, letter, .. } = curve;
        let _ = writeln!(svg, "<path class='lead' d='M{from:.1},{own:.1}L{to:.1},{at:.1}'/>");
        let _ = writeln!(svg, "<text class='letter c{colour}' x='{:.1}' y='{:.1}'>{letter}</text>", to + 2.0, at + 4.0);
    }
    svg + "</svg>\n"
}

fn axes(svg: &mut String, scales: &Scales<'_>, curves: &[Curve]) {
    let Frame { width, height } = scales.frame;
    let (right, bottom) = (width - RIGHT, height - BOTTOM);
    let mut sizes: Vec<f64> = curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let mut named = f64::MAX;
    // The largest is always named.
    for bytes in sizes.into_iter().rev() {
        let x = scales.x(bytes);
        let _ = writeln!(svg, "<path class='grid' d='M{x:.1},{TOP}V{bottom}'/>");
        if named - x >= NAMED {
            named = x;
            let _ = writeln!(svg, "<text class='tick middle' x='{x:.1}' y='{}'>{}</text>", bottom + 15.0, size(bytes));
        }
    }
    for power in scales.y.0.floor() as i32..=scales.y.1.ceil() as i32 {
        // Few decades need steps within them.
        for step in if scales.y.1 - scales.y.0 > 3.0 { &[1.0][..] } else { &[1.0, 2.0, 5.0][..] } {
            let nanos = 10_f64.powi(power) * step;
            if (scales.y.0..=scales.y.1).contains(&nanos.log10()) {
                let y = scales.y(nanos);
                let _ = writeln!(svg, "<path class='grid' d='M{LEFT},{y:.1}H{right}'/>");
                let _ = writeln!(
                    svg,
                    "<text class='tick end' x='{}' y='{:.1}'>{}</text>",
                    LEFT - 5.0,
                    y + 4.0,
                    time(nanos)
                );
            }
        }
    }
    let _ = writeln!(
        svg,
        "<text class='tick middle' x='{}' y='{}'>size of the lower file</text>",
        (LEFT + right) / 2.0,
        height - 6.0
    );
}

/// Moves sorted heights apart, so that a letter fits each.
fn spread(heights: &mut [f64], (top, bottom): (f64, f64)) {
    for i in 1..heights.len() {
        heights[i] = heights[i].max(heights[i - 1] + LETTER);
    }
    let mut most = bottom;
    for height in heights.iter_mut().rev() {
        *height = height.min(most).max(top);
        most = *height - LETTER;
    }
}
