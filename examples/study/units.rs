//! Numbers as a person would write them.

/// Nanoseconds, in the unit that a person would take.
pub fn time(nanos: f64) -> String {
    let units = [("s", 1e9), ("ms", 1e6), ("µs", 1e3)];
    let found = units.into_iter().find(|(_, unit)| nanos.abs() >= *unit);
    found.map_or_else(|| format!("{nanos:.0} ns"), |(name, unit)| format!("{} {name}", digits(nanos / unit)))
}

/// Bytes.
pub fn size(bytes: f64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)].map(|(name, bits)| (name, f64::from(1_u32 << bits)));
    let found = units.into_iter().find(|(_, unit)| bytes >= *unit);
    found.map_or_else(|| format!("{bytes:.0} B"), |(name, unit)| format!("{} {name}", digits(bytes / unit)))
}

/// Three digits.
pub fn digits(number: f64) -> String {
    match number.abs() {
        0.0 => "0".into(),
        large if large >= 100.0 => format!("{number:.0}"),
        small if small < 10.0 && (number - number.round()).abs() > 0.005 => format!("{number:.2}"),
        _ if (number - number.round()).abs() < 0.05 => format!("{number:.0}"),
        _ => format!("{number:.1}"),
    }
}

/// A chance, small ones by their power of ten.
pub fn chance(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}
