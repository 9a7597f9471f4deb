//! The NPU model against another cost model: Qualcomm's compiler's own estimates for three systems.
//!
//! For each system the same function that computes the paper's NPU is given other numbers: clock cycles for seconds,
//! one bandwidth for all, and for each mode a fixed cost, a rate and a stall. They are fitted on half of the rows and
//! compared on the other half.

mod table;

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use backend_npu_sim::cost::{NpuArray, Product, npu_product};
use backend_npu_sim::soc::MatrixUnits;
use hetero_core::OperandOrder;

use crate::solve::minimum;
use table::{Mode, Row};

/// What is tried for the tile; the best on the rows of the fit is taken.
const TILES: [usize; 2] = [32, 64];

/// Rows whose logarithmic error is larger than this count as this much: a few rows in which the compiler spills or
/// rearranges are no reason to be wrong on all others.
const LARGEST_ERROR: f64 = 0.6;

/// How often the groups of numbers are searched in turn.
const ROUNDS: usize = 4;

/// Fits each system of the table and prints the errors.
pub(crate) fn run(path: &Path) -> Result<()> {
    let mut rows = table::read(path)?;
    let mut systems: Vec<String> = Vec::new();
    for row in &rows {
        if !systems.contains(&row.soc) {
            systems.push(row.soc.clone());
        }
    }
    let found = fit_all(&rows, &systems)?;
    println!("Medians of the absolute error on the rows that the fit has not seen (and on those that it has):\n");
    print_errors(&rows, &found);
    rows.iter_mut().for_each(|row| row.is_used = !row.is_used);
    println!("\nThe same with the halves exchanged:\n");
    print_errors(&rows, &fit_all(&rows, &systems)?);
    println!("\nFixed cycles, operations per cycle and stall rows of each mode, from the first half:\n");
    print_parameters(&found);
    Ok(())
}

fn fit_all(rows: &[Row], systems: &[String]) -> Result<Vec<(String, CycleNpu)>> {
    systems.iter().map(|system| Ok((system.clone(), fit(&rows_of(rows, system))?))).collect()
}

fn rows_of<'a>(rows: &'a [Row], system: &str) -> Vec<&'a Row> {
    rows.iter().filter(|row| row.soc == system).collect()
}

/// An NPU whose unit of time is the clock cycle.
struct CycleNpu {
    tile: usize,
    bytes_per_cycle: f64,
    units: [Units; Mode::ALL.len()],
}

#[derive(Clone, Copy)]
struct Units {
    fixed_cycles: f64,
    operations_per_cycle: f64,
    stall_rows: f64,
}

/// Bounds of the numbers that are fitted: bytes per cycle, then for each mode fixed cycles, the logarithm of operations
/// per cycle, and stall rows.
const BYTES_BOUNDS: (f64, f64) = (5.0, 200.0);
const MODE_BOUNDS: [(f64, f64); 3] = [(0.0, 200_000.0), (6.0, 13.0), (0.0, 8192.0)];

impl CycleNpu {
    fn new(tile: usize, numbers: &[f64]) -> CycleNpu {
        let units = std::array::from_fn(|idx| {
            let of_mode = &numbers[numbers_of(idx)];
            Units { fixed_cycles: of_mode[0], operations_per_cycle: of_mode[1].exp(), stall_rows: of_mode[2] }
        });
        CycleNpu { tile, bytes_per_cycle: numbers[0], units }
    }

    /// The tile and what [`CycleNpu::new`] takes.
    fn n_parameters(&self) -> usize {
        2 + MODE_BOUNDS.len() * self.units.len()
    }

    fn cycles(&self, row: &Row) -> f64 {
        let units = self.units[row.mode as usize];
        let array = NpuArray {
            tile: self.tile,
            units: MatrixUnits { operations_per_second: units.operations_per_cycle, stall_rows: units.stall_rows },
            unpacked_weights_per_second: f64::INFINITY,
            full_speed_columns: f64::INFINITY,
            depth_power: 0.0,
            bytes_per_second: self.bytes_per_cycle,
        };
        let product = Product {
            m: row.m,
            n: row.n,
            k: row.k,
            quantized: row.mode.weight_bits() < 16.0,
            weight_bits: row.mode.weight_bits(),
            activation_bytes: row.mode.activation_bytes(),
            output_bytes: row.mode.activation_bytes(),
        };
        units.fixed_cycles + npu_product(&array, &product, OperandOrder::ActivationStationary).alone_seconds()
    }

    fn error(&self, row: &Row) -> f64 {
        (self.cycles(row) / row.cycles - 1.0).abs()
    }
}

/// Where the numbers of a mode stand.
fn numbers_of(mode_idx: usize) -> Range<usize> {
    let start = 1 + mode_idx * MODE_BOUNDS.len();
    start..start + MODE_BOUNDS.len()
}

/// The best numbers for the rows that are used.
fn fit(rows: &[&Row]) -> Result<CycleNpu> {
    let used: Vec<&Row> = rows.iter().copied().filter(|row| row.is_used).collect();
    let loss = |npu: &CycleNpu, rows: &[&Row]| -> f64 {
        rows.iter().map(|row| (npu.cycles(row) / row.cycles).ln().abs().min(LARGEST_ERROR)).sum()
    };
    let mut bounds = vec![BYTES_BOUNDS];
    bounds.extend(Mode::ALL.iter().flat_map(|_| MODE_BOUNDS));
    let mut best: Option<(f64, CycleNpu)> = None;
    for tile in TILES {
        let mut numbers = vec![35.0];
        numbers.extend(Mode::ALL.iter().flat_map(|_| [10_000.0, 9.0, 1000.0]));
        for _ in 0..ROUNDS {
            for mode in Mode::ALL {
                let of_mode: Vec<&Row> = used.iter().copied().filter(|row| row.mode == mode).collect();
                let which = numbers_of(mode as usize);
                search(&mut numbers, which, &bounds, |numbers| loss(&CycleNpu::new(tile, numbers), &of_mode))?;
            }
            // The bandwidth is common to all modes.
            for which in [0..1, 0..bounds.len()] {
                search(&mut numbers, which, &bounds, |numbers| loss(&CycleNpu::new(tile, numbers), &used))?;
            }
        }
        let npu = CycleNpu::new(tile, &numbers);
        let loss = loss(&npu, &used);
        if best.as_ref().is_none_or(|(least, _)| loss < *least) {
            best = Some((loss, npu));
        }
    }
    Ok(best.context("there is no tile to try")?.1)
}

/// Searches some of the numbers while the others stay: from where they are, and a mode's also from a coarse grid.
fn search(numbers: &mut [f64], which: Range<usize>, bounds: &[(f64, f64)], loss: impl Fn(&[f64]) -> f64) -> Result<()> {
    let with = |part: &[f64]| {
        let mut all = numbers.to_vec();
        all[which.clone()].copy_from_slice(part);
        all
    };
    let mut starts = vec![numbers[which.clone()].to_vec()];
    if which.len() == MODE_BOUNDS.len() {
        for rate in [7.0, 8.0, 9.0, 10.0, 11.0, 12.0] {
            for fixed in [1000.0, 40_000.0] {
                starts.extend([100.0, 1000.0, 4000.0].map(|stall| vec![fixed, rate, stall]));
            }
        }
    }
    let mut best = (loss(numbers), numbers[which.clone()].to_vec());
    for start in starts {
        let found = minimum(&start, &bounds[which.clone()], 600, |part| loss(&with(part)))?;
        let loss = loss(&with(&found));
        if loss < best.0 {
            best = (loss, found);
        }
    }
    numbers[which].copy_from_slice(&best.1);
    Ok(())
}

fn print_errors(rows: &[Row], found: &[(String, CycleNpu)]) {
    let modes = Mode::ALL.map(Mode::name).join(" | ");
    println!("| system | tile | parameters | rows seen | rows not seen | {modes} |");
    println!("|---|---|---|---|---|{}", "---|".repeat(Mode::ALL.len()));
    let mut all: [Vec<f64>; Mode::ALL.len()] = Default::default();
    for (system, npu) in found {
        let rows = rows_of(rows, system);
        let cells = Mode::ALL.map(|mode| {
            let errors = |is_used: bool| -> Vec<f64> {
                let chosen = rows.iter().filter(|row| row.mode == mode && row.is_used == is_used);
                chosen.map(|row| npu.error(row)).collect()
            };
            let not_seen = errors(false);
            all[mode as usize].extend(&not_seen);
            format!("{:.1} % ({:.1} %)", median(&not_seen) * 100.0, median(&errors(true)) * 100.0)
        });
        let n_seen = rows.iter().filter(|row| row.is_used).count();
        let n_not_seen = rows.len() - n_seen;
        let (tile, n_parameters) = (npu.tile, npu.n_parameters());
        println!("| {system} | {tile} | {n_parameters} | {n_seen} | {n_not_seen} | {} |", cells.join(" | "));
    }
    let overall = all.map(|errors| format!("{:.1} %", median(&errors) * 100.0));
    println!("| all | | | | | {} |", overall.join(" | "));
}

fn print_parameters(found: &[(String, CycleNpu)]) {
    println!("| system | bytes per cycle | {} |", Mode::ALL.map(Mode::name).join(" | "));
    println!("|---|---|{}", "---|".repeat(Mode::ALL.len()));
    for (system, npu) in found {
        let units = npu.units.map(|units| {
            format!("{:.0}, {:.0}, {:.0}", units.fixed_cycles, units.operations_per_cycle, units.stall_rows)
        });
        println!("| {system} | {:.1} | {} |", npu.bytes_per_cycle, units.join(" | "));
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}
