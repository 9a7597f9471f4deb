//! Reading one parameter: a number under the name of its unit, a source and a confidence.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// How sure a parameter is: for readers of the file, so it is only checked.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Confidence {
    /// The HeteroLLM paper states it.
    Paper,
    /// Computed from what the paper states.
    Derived,
    /// Found by the fit to the paper's measurements.
    Fitted,
    /// Another publication states it.
    Literature,
    /// Measured on the device by whoever wrote the file.
    Measured,
    /// Chosen because it is plausible.
    Guess,
}

/// A unit: its key in files, what it is in SI units, and which values make sense.
pub(super) trait Unit {
    /// The key.
    const KEY: &'static str;
    /// One of it in SI units.
    const SI: f64;
    /// The least and the greatest value allowed, in this unit.
    const RANGE: (f64, f64);
}

/// Defines units: type, key, size in SI units, allowed values.
macro_rules! units {
    ($($name:ident, $key:literal, $si:expr, $range:expr;)*) => {$(
        /// A unit of SoC files.
        pub(super) struct $name;
        impl Unit for $name {
            const KEY: &'static str = $key;
            const SI: f64 = $si;
            const RANGE: (f64, f64) = $range;
        }
    )*};
}

units! {
    GbPerS, "gb_per_s", 1e9, (0.01, 10_000.0);
    Ns, "ns", 1e-9, (0.0, 1e9);
    Us, "us", 1e-6, (0.0, 1e6);
    Ms, "ms", 1e-3, (0.0, 1e5);
    Gflops, "gflops", 1e9, (0.01, 1e7);
    Tflops, "tflops", 1e12, (0.001, 1e4);
    GweightsPerS, "gweights_per_s", 1e9, (0.01, 1e6);
    Columns, "columns", 1.0, (1.0, 1e9);
    RowCount, "rows", 1.0, (0.0, 1e6);
    Factor, "factor", 1.0, (0.0, 4.0);
    Watts, "w", 1.0, (0.0, 1000.0);
    Picojoules, "pj", 1e-12, (0.0, 1e5);
    TileCount, "elements", 1.0, (1.0, 1024.0);
    Graphs, "graphs", 1.0, (1.0, 1e6);
    Positions, "positions", 1.0, (1.0, 1e6);
    Mib, "mib", 1048576.0, (1.0, 1e6);
}

/// A parameter in SI units.
pub(super) fn read<'de, U: Unit, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(deserializer.deserialize_map(ParameterVisitor::<U>(PhantomData))? * U::SI)
}

/// A parameter that counts something.
pub(super) fn read_count<'de, U: Unit, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let count = read::<U, D>(deserializer)?;
    if count.fract() != 0.0 {
        return Err(D::Error::custom(format!("found {} = {count}, must be a whole number", U::KEY)));
    }
    // Within the unit's range, so it fits.
    Ok(count as usize)
}

/// A parameter that is a size in memory, rounded to bytes.
pub(super) fn read_bytes<'de, U: Unit, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(read::<U, D>(deserializer)?.round() as u64)
}

struct ParameterVisitor<U>(PhantomData<U>);

impl<'de, U: Unit> Visitor<'de> for ParameterVisitor<U> {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a table such as {{ {} = {}, source = \"...\", confidence = \"measured\" }}",
            U::KEY,
            U::RANGE.1.min(1.0)
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<f64, A::Error> {
        let (mut value, mut source, mut confidence) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                key if key == U::KEY => value = Some(in_range::<U, A::Error>(map.next_value::<Number>()?.0)?),
                "source" => source = Some(map.next_value::<String>()?),
                "confidence" => confidence = Some(map.next_value::<Confidence>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom(format!(
                        "unknown key `{key}`, expected `{}`, `source` and `confidence`",
                        U::KEY
                    )));
                }
            }
        }
        if source.is_none_or(|source: String| source.trim().is_empty()) {
            return Err(A::Error::custom("missing `source`: say in a few words where the value comes from"));
        }
        if confidence.is_none() {
            return Err(A::Error::custom(
                "missing `confidence`: give paper, derived, fitted, literature, measured or guess",
            ));
        }
        value.ok_or_else(|| A::Error::custom(format!("missing `{}`: give the value in this unit", U::KEY)))
    }
}

/// A number with or without a decimal point.
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

fn in_range<U: Unit, E: Error>(value: f64) -> Result<f64, E> {
    let (least, greatest) = U::RANGE;
    // NaN is in no range.
    if (least..=greatest).contains(&value) {
        return Ok(value);
    }
    Err(E::custom(format!("found {value}, allowed are {least} to {greatest}; check the unit `{}`", U::KEY)))
}
