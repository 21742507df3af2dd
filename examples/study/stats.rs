//! A few lines of statistics.

/// Of sorted numbers, the one below which a share of them is (nearest rank); the median is between two where they are even.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

pub fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted {
        [] => 0.0,
        _ if sorted.len() % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

pub fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

/// A line `a + b·x`, with the standard errors of both.
#[derive(Clone, Copy)]
pub struct Fit {
    pub a: f64,
    pub b: f64,
    pub a_error: f64,
    pub b_error: f64,
}

/// Least squares, each point with the weight `1/y²`: an error of a tenth counts the same for small and large files.
/// `None` below three points, which leave no error to be seen.
pub fn fit(points: &[(f64, f64)]) -> Option<Fit> {
    if points.len() < 3 || points.iter().any(|(_, y)| *y <= 0.0) {
        return None;
    }
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(*x, *y) / (y * y)).sum::<f64>();
    let (w, wx, wy) = (sum(&|_, _| 1.0), sum(&|x, _| x), sum(&|_, y| y));
    let (wxx, wxy) = (sum(&|x, _| x * x), sum(&|x, y| x * y));
    let det = w * wxx - wx * wx;
    if det <= 0.0 {
        return None;
    }
    let (a, b) = ((wxx * wy - wx * wxy) / det, (w * wxy - wx * wy) / det);
    let rest = sum(&|x, y| (y - a - b * x).powi(2)) / (points.len() - 2) as f64;
    Some(Fit { a, b, a_error: (rest * wxx / det).sqrt(), b_error: (rest * w / det).sqrt() })
}

/// Where two lines cross, if both their begins and their slopes differ by more than twice the error of the difference.
pub fn crossing(one: &Fit, other: &Fit) -> Option<f64> {
    let differ = |x: f64, y: f64, x_error: f64, y_error: f64| (x - y).abs() > 2.0 * x_error.hypot(y_error);
    let clear =
        differ(one.a, other.a, one.a_error, other.a_error) && differ(one.b, other.b, one.b_error, other.b_error);
    let at = (other.a - one.a) / (one.b - other.b);
    (clear && at > 0.0).then_some(at)
}

/// The chance that two sets of samples differ in rank as much as these if they came from one source: the test of Mann and
/// Whitney, two-sided, by the normal approximation with the correction for ties. Right from about eight samples each.
pub fn rank_test(one: &[f64], other: &[f64]) -> f64 {
    let mut all: Vec<_> = one.iter().map(|x| (*x, true)).chain(other.iter().map(|x| (*x, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (n, m) = (one.len() as f64, other.len() as f64);
    let total = n + m;
    let (mut ranks, mut ties, mut before) = (0.0, 0.0, 0.0);
    for tied in all.chunk_by(|x, y| x.0.to_bits() == y.0.to_bits()) {
        let count = tied.len() as f64;
        let of_one = tied.iter().filter(|(_, is_one)| *is_one).count() as f64;
        ranks += of_one * (before + f64::midpoint(count, 1.0));
        ties += count.powi(3) - count;
        before += count;
    }
    let u = ranks - n * (n + 1.0) / 2.0;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if n < 2.0 || m < 2.0 || variance <= 0.0 {
        return 1.0;
    }
    // Half a rank: the test is of whole ones.
    let z = ((u - n * m / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    both_tails(z)
}

/// The chance of a normal value farther from its mean than `z` deviations, to 1e-7 (Abramowitz and Stegun, 26.2.17).
fn both_tails(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let series = terms.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    (2.0 * density * series).clamp(0.0, 1.0)
}
