//! The table of estimates: one row for each system, mode and shape of a product.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// What weights and activations are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Both half precision.
    F16,
    /// Both 8-bit integers.
    W8A8,
    /// Weights 8-bit, activations 16-bit integers.
    W8A16,
    /// Weights 4-bit, activations 16-bit integers.
    W4A16,
}

impl Mode {
    /// In the order of their numbers.
    pub(crate) const ALL: [Mode; 4] = [Mode::F16, Mode::W8A8, Mode::W8A16, Mode::W4A16];

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        ["f16", "w8a8", "w8a16", "w4a16"][self as usize]
    }

    /// Bits of a weight.
    pub(crate) fn weight_bits(self) -> f64 {
        [16.0, 8.0, 8.0, 4.0][self as usize]
    }

    /// Bytes of an element of activations and output.
    pub(crate) fn activation_bytes(self) -> f64 {
        [2.0, 1.0, 2.0, 2.0][self as usize]
    }

    /// By the table's name, which may end in `p` for scales per channel.
    fn parse(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| name.strip_suffix('p').unwrap_or(name) == mode.name())
    }
}

/// One estimate.
pub(crate) struct Row {
    /// The system's number.
    pub(crate) soc: String,
    /// What weights and activations are.
    pub(crate) mode: Mode,
    /// Rows of the activations.
    pub(crate) m: usize,
    /// Input features.
    pub(crate) k: usize,
    /// Output features.
    pub(crate) n: usize,
    /// The estimate.
    pub(crate) cycles: f64,
    /// Whether the fit sees it. Rows of one system and mode are numbered by shape and by size; every other one is seen,
    /// as on a chessboard, so that each shape and each size is on both sides.
    pub(crate) is_used: bool,
}

/// Reads the table.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("cannot read {}", path.display()))?;
    let headers = reader.headers().with_context(|| format!("{}: no header", path.display()))?.clone();
    let column = |name: &str| {
        let idx = headers.iter().position(|header| header.trim() == name);
        let found = headers.iter().collect::<Vec<_>>().join(", ");
        idx.with_context(|| format!("{}: no column {name:?}; it has: {found}", path.display()))
    };
    let (soc, mode) = (column("soc")?, column("mode")?);
    let (m, k, n, cycles) = (column("M")?, column("K")?, column("N")?, column("cycles")?);
    let mut rows: Vec<Row> = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| path.display().to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let at = || format!("{}:{line}", path.display());
        let text = |idx: usize| record.get(idx).unwrap_or_default().trim();
        let size = |idx: usize, name: &str| -> Result<usize> {
            let size: usize = text(idx)
                .parse()
                .with_context(|| format!("{}: {name} is {:?}, must be a whole number", at(), text(idx)))?;
            ensure!((1..=1 << 24).contains(&size), "{}: {name} is {size}, must be 1 to {}", at(), 1 << 24);
            Ok(size)
        };
        let Some(mode) = Mode::parse(text(mode)) else {
            let known = Mode::ALL.map(Mode::name).join(", ");
            bail!("{}: mode is {:?}, must be one of {known}", at(), text(mode));
        };
        let estimate: f64 = text(cycles)
            .parse()
            .with_context(|| format!("{}: cycles is {:?}, must be a number", at(), text(cycles)))?;
        ensure!(estimate.is_finite() && estimate > 0.0, "{}: cycles is {estimate}, must be above zero", at());
        let row = Row {
            soc: text(soc).to_owned(),
            mode,
            m: size(m, "M")?,
            k: size(k, "K")?,
            n: size(n, "N")?,
            cycles: estimate,
            is_used: false,
        };
        rows.push(row);
    }
    ensure!(!rows.is_empty(), "{}: no rows", path.display());
    mark_used(&mut rows);
    for row in &rows {
        let of_kind = |used: bool| {
            rows.iter().any(|other| other.soc == row.soc && other.mode == row.mode && other.is_used == used)
        };
        let name = row.mode.name();
        ensure!(of_kind(true) && of_kind(false), "{}: too few rows of {name} for {}", path.display(), row.soc);
    }
    Ok(rows)
}

fn mark_used(rows: &mut [Row]) {
    let mut shapes: Vec<(usize, usize)> = rows.iter().map(|row| (row.k, row.n)).collect();
    shapes.sort_unstable();
    shapes.dedup();
    let mut sizes: Vec<usize> = rows.iter().map(|row| row.m).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for row in rows {
        let shape_idx = shapes.iter().position(|shape| *shape == (row.k, row.n)).unwrap_or_default();
        let size_idx = sizes.iter().position(|size| *size == row.m).unwrap_or_default();
        row.is_used = (shape_idx + size_idx).is_multiple_of(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A good table of two rows with one piece of text replaced, read from a file of its own.
    fn read_altered(from: &str, to: &str) -> Result<Vec<Row>> {
        let good = "soc,mode,op,M,K,N,cycles\n1,w8a8p,FC,1,32,64,100\n1,w8a8p,FC,8,32,64,200\n";
        assert_eq!(good.matches(from).count(), 1, "{from:?} must be in the table once");
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), good.replace(from, to))?;
        read(file.path())
    }

    #[test]
    fn a_good_table_is_read_and_cut_in_halves() {
        let rows = read_altered("FC,1,", "FC,1,").unwrap();
        let halves: Vec<bool> = rows.iter().map(|row| row.is_used).collect();
        assert_eq!(halves, [true, false]);
        assert_eq!((rows[1].mode, rows[1].m, rows[1].k, rows[1].n, rows[1].cycles), (Mode::W8A8, 8, 32, 64, 200.0));
    }

    #[test]
    fn a_bad_table_is_refused_with_line_and_reason() {
        let cases = [
            ("cycles\n", "time\n", "no column \"cycles\""),
            ("1,w8a8p,FC,8", "1,w2a2,FC,8", ":3: mode is \"w2a2\", must be one of f16"),
            ("FC,8,", "FC,eight,", ":3: M is \"eight\""),
            ("FC,8,", "FC,0,", ":3: M is 0"),
            ("64,200", "64,-2", ":3: cycles is -2"),
            ("64,200", "64,NaN", ":3: cycles is NaN"),
            ("64,200", "64", "line: 3"),
            ("1,w8a8p,FC,8,32,64,200\n", "", "too few rows of w8a8 for 1"),
        ];
        for (from, to, expected) in cases {
            let error = read_altered(from, to).map(|rows| rows.len()).expect_err(to);
            assert!(format!("{error:#}").contains(expected), "no {expected:?} in {error:#}");
        }
    }
}
