//! Seconds of shapes that were not measured.
//!
//! Three models, of which each operator on each device gets the one with the smallest error on points held out:
//!
//! - **pieces**: between measured numbers of rows, and of columns, time is linear; beyond the last it goes on in
//!   proportion. What CPUs and GPUs do.
//! - **staircase**: the same of rows and columns rounded up to the measured tile, a single row apart. What NPUs do, which
//!   pad, and have other units for one row.
//! - **tree**: a small regression tree of the rate, for devices that jump between kernels.
//!
//! An operator that looks back at other positions takes longer for each row the more rows there are, so its time for one
//! row is what is linear.
//!
//! The columns of an operator that was measured whole only take their share of its time.

use hetero_core::DeviceKind;

use super::Sample;

/// The side of an NPU's tiles.
const TILE: usize = 32;
/// A tree stops at so few samples.
const LEAF: usize = 2;

/// Predicts one operator on one device.
#[derive(Clone, Debug)]
pub struct Predictor {
    model: Model,
    /// For each operand order, for one row and for more: pieces by number of columns, ascending.
    grids: [[Vec<Level>; 2]; 2],
    /// Whether it looks back at other positions.
    looks_back: bool,
    /// Seconds for a row, a position before it and the whole width; zero but for attention.
    per_past: f64,
    columns: usize,
    errors: Errors,
}

/// By what a predictor predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Model {
    /// Linear between measurements.
    Pieces,
    /// Linear between measurements of whole tiles.
    Staircase,
    /// A regression tree.
    Tree(Tree),
}

/// Relative errors on measurements that were held out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Errors {
    /// How many were held out.
    pub n: usize,
    /// Half of them are off by this much or less.
    pub median: f64,
    /// Their mean, each counted as 1 at most.
    pub mean: f64,
    /// The worst of them.
    pub worst: f64,
}

/// The measurements with one number of columns.
#[derive(Clone, Debug)]
struct Level {
    columns: f64,
    /// Rows, ascending, and seconds.
    points: Vec<(f64, f64)>,
}

impl Predictor {
    /// A predictor from measurements, or `None` when there are none.
    pub fn fit(samples: &[Sample], kind: DeviceKind) -> Option<Predictor> {
        let columns = samples.iter().map(|sample| sample.columns).max()?;
        let tree = |samples: &[Sample]| Predictor {
            model: Model::Tree(Tree::grow(samples)),
            ..Predictor::plain(samples, kind, columns)
        };
        let plain = |samples: &[Sample]| Predictor::plain(samples, kind, columns);
        let is_npu = kind == DeviceKind::Npu;
        let (plain_errors, tree_errors) = (hold_out(samples, is_npu, &plain), hold_out(samples, is_npu, &tree));
        // The tree has more freedom, and knows nothing of proportions, so it must be clearly better.
        let is_tree = tree_errors.mean < 0.5 * plain_errors.mean && plain_errors.mean > 0.15;
        let mut predictor = if is_tree { tree(samples) } else { plain(samples) };
        predictor.errors = if is_tree { tree_errors } else { plain_errors };
        Some(predictor)
    }

    fn plain(samples: &[Sample], kind: DeviceKind, columns: usize) -> Predictor {
        let is_staircase = kind == DeviceKind::Npu;
        let looks_back = samples.iter().any(|sample| sample.past > 0);
        let grid = |order: bool, is_single: bool| {
            levels(samples, order, |rows| !is_staircase || (rows == 1) == is_single, looks_back)
        };
        Predictor {
            model: if is_staircase { Model::Staircase } else { Model::Pieces },
            grids: [false, true].map(|order| [true, false].map(|is_single| grid(order, is_single))),
            looks_back,
            per_past: per_past(samples, columns),
            columns,
            errors: Errors::default(),
        }
    }

    /// As [`Predictor::fit`], without the tree: what is measured is amounts, which have no kernels to jump between.
    pub(crate) fn pieces(samples: &[Sample], kind: DeviceKind) -> Option<Predictor> {
        let columns = samples.iter().map(|sample| sample.columns).max()?;
        Some(Predictor::plain(samples, kind, columns))
    }

    /// Seconds of a part. Operand orders that were not measured take what the other one does.
    pub fn seconds(&self, rows: usize, past: usize, columns: usize, is_weight_stationary: bool) -> f64 {
        let (rows_up, columns_up) = match self.model {
            // One position is a kernel of its own, not a padded tile.
            Model::Staircase if rows > 1 => (rows.next_multiple_of(TILE), columns.next_multiple_of(TILE)),
            Model::Staircase => (rows, columns.next_multiple_of(TILE)),
            _ => (rows, columns),
        };
        let seconds = match &self.model {
            Model::Tree(tree) => tree.rate(rows, columns) * rows as f64 * columns as f64,
            _ => {
                let of_order = |order: bool| {
                    let [single, many] = &self.grids[usize::from(order)];
                    // What was not measured for so many rows is told from the others.
                    match rows {
                        1 if !single.is_empty() => single,
                        _ if many.is_empty() => single,
                        _ => many,
                    }
                };
                let asked = of_order(is_weight_stationary);
                let grid = if asked.is_empty() { of_order(!is_weight_stationary) } else { asked };
                let value = between(grid, rows_up as f64, columns_up as f64, self.looks_back);
                if self.looks_back { value * rows_up as f64 } else { value }
            }
        };
        seconds + self.per_past * (rows * past) as f64 * columns as f64 / self.columns as f64
    }

    /// By what it predicts.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// How far off it was on measurements that were held out.
    pub fn errors(&self) -> Errors {
        self.errors
    }
}

/// The error on each measurement in turn when it is left out; the smallest and largest shapes stay, because nothing is
/// beyond them to tell them from.
fn hold_out(samples: &[Sample], is_npu: bool, fit: &dyn Fn(&[Sample]) -> Predictor) -> Errors {
    let same_line = |a: &Sample, b: &Sample| {
        (a.past, a.columns, a.is_weight_stationary) == (b.past, b.columns, b.is_weight_stationary)
            && (!is_npu || (a.rows == 1) == (b.rows == 1))
    };
    let mut errors: Vec<f64> = Vec::new();
    for (idx, sample) in samples.iter().enumerate() {
        let on_line = || samples.iter().filter(|other| same_line(sample, other));
        let is_inside =
            on_line().any(|other| other.rows < sample.rows) && on_line().any(|other| other.rows > sample.rows);
        if !is_inside || sample.past > 0 || sample.seconds <= 0.0 {
            continue;
        }
        let mut rest = samples.to_vec();
        rest.remove(idx);
        let predicted = fit(&rest).seconds(sample.rows, sample.past, sample.columns, sample.is_weight_stationary);
        errors.push((predicted / sample.seconds - 1.0).abs());
    }
    errors.sort_by(f64::total_cmp);
    let middle = errors.get(errors.len() / 2).copied().unwrap_or(0.0);
    let mean = errors.iter().map(|error| error.min(1.0)).sum::<f64>() / errors.len().max(1) as f64;
    Errors { n: errors.len(), median: middle, mean, worst: errors.last().copied().unwrap_or(0.0) }
}

/// The measurements of one operand order without a past, of the numbers of rows that count: their seconds, or those for
/// each row.
fn levels(samples: &[Sample], is_weight_stationary: bool, counts: impl Fn(usize) -> bool, by_row: bool) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    let usable = samples.iter().filter(|sample| {
        sample.past == 0 && sample.is_weight_stationary == is_weight_stationary && counts(sample.rows)
    });
    for sample in usable {
        let columns = sample.columns as f64;
        let idx = levels.iter().position(|level| level.columns == columns).unwrap_or_else(|| {
            levels.push(Level { columns, points: Vec::new() });
            levels.len() - 1
        });
        let rows = sample.rows as f64;
        levels[idx].points.push((rows, if by_row { sample.seconds / rows } else { sample.seconds }));
    }
    for level in &mut levels {
        level.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    levels.sort_by(|a, b| a.columns.total_cmp(&b.columns));
    levels
}

/// Seconds for a row, a position before it and the whole width: the median over the measurements with a past.
fn per_past(samples: &[Sample], columns: usize) -> f64 {
    let base = levels(samples, false, |_| true, false);
    let with_past = samples.iter().filter(|sample| sample.past > 0);
    let mut slopes: Vec<f64> = with_past
        .map(|sample| {
            let without = between(&base, sample.rows as f64, sample.columns as f64, false);
            let width = sample.columns as f64 / columns as f64;
            ((sample.seconds - without) / ((sample.rows * sample.past) as f64 * width)).max(0.0)
        })
        .collect();
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(0.0)
}

/// Linear between levels of columns, and between rows on each. Beyond the last number of rows the work grows in
/// proportion, or goes on as between the last two when it is given for each row.
fn between(levels: &[Level], rows: f64, columns: f64, by_row: bool) -> f64 {
    let line = |(x0, y0): (f64, f64), (x1, y1): (f64, f64), x: f64| y0 + (y1 - y0) * (x - x0) / (x1 - x0);
    let on_level = |level: &Level| -> f64 {
        let points = &level.points;
        let at = points.partition_point(|point| point.0 < rows);
        match (at.checked_sub(1).map(|below| points[below]), points.get(at)) {
            (Some(below), Some(&above)) => line(below, above, rows),
            (None, Some(&first)) => first.1,
            (Some(last), None) if by_row => match points[..points.len() - 1].last() {
                Some(&before) => line(before, last, rows),
                None => last.1,
            },
            (Some(last), None) => last.1 * rows / last.0,
            (None, None) => 0.0,
        }
    };
    let at = levels.partition_point(|level| level.columns < columns);
    match (at.checked_sub(1).map(|below| &levels[below]), levels.get(at)) {
        (Some(below), Some(above)) => line((below.columns, on_level(below)), (above.columns, on_level(above)), columns),
        (None, Some(first)) => on_level(first) * columns / first.columns,
        (Some(last), None) => on_level(last) * columns / last.columns,
        (None, None) => 0.0,
    }
}

/// A regression tree of seconds per row and column.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// The rate of everything here, in seconds.
    Leaf(f64),
    /// Fewer than so many rows (or columns) go to the first, the others to the second.
    Split {
        /// Whether rows are compared, rather than columns.
        by_rows: bool,
        /// The number that goes to the second.
        from: usize,
        /// Below and from there on.
        sides: Box<[Tree; 2]>,
    },
}

impl Tree {
    /// Grows a tree by splitting where the squared error of the logarithm falls most.
    fn grow(samples: &[Sample]) -> Tree {
        let rate = |sample: &Sample| (sample.seconds / (sample.rows * sample.columns) as f64).max(1e-30);
        let mean =
            |samples: &[Sample]| samples.iter().map(|sample| rate(sample).ln()).sum::<f64>() / samples.len() as f64;
        let error = |samples: &[Sample]| -> f64 {
            let mean = mean(samples);
            samples.iter().map(|sample| (rate(sample).ln() - mean).powi(2)).sum()
        };
        if samples.is_empty() {
            return Tree::Leaf(0.0);
        }
        let side = |by_rows: bool, from: usize| -> (Vec<Sample>, Vec<Sample>) {
            samples.iter().partition(|sample| if by_rows { sample.rows < from } else { sample.columns < from })
        };
        let splits = samples.iter().flat_map(|sample| [(true, sample.rows), (false, sample.columns)]);
        let best = splits
            .map(|(by_rows, from)| (by_rows, from, side(by_rows, from)))
            .filter(|(_, _, (below, above))| below.len() >= LEAF && above.len() >= LEAF)
            .map(|(by_rows, from, (below, above))| (error(&below) + error(&above), by_rows, from))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((after, by_rows, from)) if after < 0.9 * error(samples) => {
                let (below, above) = side(by_rows, from);
                Tree::Split { by_rows, from, sides: Box::new([Tree::grow(&below), Tree::grow(&above)]) }
            }
            _ => Tree::Leaf(mean(samples).exp()),
        }
    }

    fn rate(&self, rows: usize, columns: usize) -> f64 {
        match self {
            Tree::Leaf(rate) => *rate,
            Tree::Split { by_rows, from, sides } => {
                let is_second = if *by_rows { rows >= *from } else { columns >= *from };
                sides[usize::from(is_second)].rate(rows, columns)
            }
        }
    }
}
