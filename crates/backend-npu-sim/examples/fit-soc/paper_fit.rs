//! The fit to the paper: every fact beside its simulated value, and the file with the values found.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::facts::{Fact, Use, facts};
use crate::parameters::{GROUPS, Parameter, SocFile, rounded};
use crate::solve::minimum;

/// How often the groups are searched in turn.
const ROUNDS: usize = 3;

/// Fits the file, prints the tables, and with `write` keeps the values found.
pub(crate) fn run(path: &Path, write: bool) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let facts = facts();
    let before = SocFile::new(&text)?;
    // The values of the file play no part, so that a second fit ends where the first did.
    let mut file = before.clone();
    let mut values: Vec<Vec<f64>> =
        GROUPS.iter().map(|group| group.iter().map(|parameter| parameter.start).collect()).collect();
    for (group, values) in GROUPS.iter().zip(&values) {
        set_all(&mut file, group, values)?;
    }
    for _ in 0..ROUNDS {
        for (group, values) in GROUPS.iter().zip(&mut values) {
            *values = search(&file, group, values, &facts)?;
            set_all(&mut file, group, values)?;
        }
    }
    for (group, values) in GROUPS.iter().zip(&mut values) {
        values.iter_mut().for_each(|value| *value = rounded(*value));
        set_all(&mut file, group, values)?;
    }
    print_facts(&file, &facts)?;
    print_parameters(&values);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if write {
        fs::write(path, file.text()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nwritten to {name}");
    } else if file.text() != before.text() {
        println!("\n{name} has other values; --write puts these in");
    } else {
        println!("\n{name} has these values");
    }
    Ok(())
}

fn set_all(file: &mut SocFile, group: &[Parameter], values: &[f64]) -> Result<()> {
    group.iter().zip(values).try_for_each(|(parameter, &value)| file.set(parameter, value))
}

fn search(file: &SocFile, group: &[Parameter], start: &[f64], facts: &[Fact]) -> Result<Vec<f64>> {
    let bounds: Vec<(f64, f64)> = group.iter().map(|parameter| parameter.bounds).collect();
    let cost = |values: &[f64]| {
        let mut file = file.clone();
        // Values within bounds make a sound file; where they do not, the search turns back.
        set_all(&mut file, group, values).and_then(|()| loss(&file, facts)).unwrap_or(f64::INFINITY)
    };
    minimum(start, &bounds, 2000, cost)
}

/// The sum of squared logarithms of simulated over stated values: twice as much is as bad as half.
fn loss(file: &SocFile, facts: &[Fact]) -> Result<f64> {
    let phone = file.phone()?;
    let used = facts.iter().filter(|fact| fact.used == Use::Fit);
    Ok(used.map(|fact| (1.0 + fact.error((fact.simulate)(&phone))).max(1e-6).ln().powi(2)).sum())
}

fn print_facts(file: &SocFile, facts: &[Fact]) -> Result<()> {
    let phone = file.phone()?;
    let mut beyond = 0;
    let is_check = |fact: &&Fact| matches!(fact.used, Use::Check(_));
    println!("Used in the fit:\n");
    println!("| fact | source | paper | simulated | unit | error |");
    println!("|---|---|---|---|---|---|");
    for fact in facts.iter().filter(|fact| !is_check(fact)) {
        let simulated = (fact.simulate)(&phone);
        let error = fact.error(simulated);
        beyond += usize::from(error.abs() > 0.15);
        print_row(fact, simulated, &format!("{:+.1} %", error * 100.0));
    }
    println!("\n{} rows, {beyond} of them off by more than 15 %\n", facts.iter().filter(|f| !is_check(f)).count());
    println!("Compared only:\n");
    println!("| fact | source | paper | simulated | unit | error, and why it is not used |");
    println!("|---|---|---|---|---|---|");
    for fact in facts {
        if let Use::Check(reason) = fact.used {
            let simulated = (fact.simulate)(&phone);
            print_row(fact, simulated, &format!("{:+.1} %; {reason}", fact.error(simulated) * 100.0));
        }
    }
    Ok(())
}

fn print_row(fact: &Fact, simulated: (f64, f64), last: &str) {
    println!(
        "| {} | {} ({}) | {} | {} | {} | {last} |",
        fact.name,
        fact.source,
        fact.confidence,
        shown(fact.value),
        shown(simulated),
        fact.unit
    );
}

fn print_parameters(values: &[Vec<f64>]) {
    println!("\nParameters:\n");
    println!("| parameter | unit | start | bounds | fitted |");
    println!("|---|---|---|---|---|");
    for (parameter, value) in GROUPS.iter().flat_map(|group| group.iter()).zip(values.iter().flatten()) {
        let (least, most) = parameter.bounds;
        println!("| {} | {} | {} | {least} to {most} | {value} |", parameter.name(), parameter.unit, parameter.start);
    }
}

/// A number or a range with four digits.
fn shown((least, most): (f64, f64)) -> String {
    let digits = |value: f64| match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    if least == most { digits(least) } else { format!("{} to {}", digits(least), digits(most)) }
}

#[cfg(test)]
mod tests {
    use backend_npu_sim::Soc;

    use super::*;
    use crate::paper::GPU_MEASUREMENT_SECONDS;

    /// The built-in system, measured as the last fit found it.
    fn built_in() -> SocFile {
        let mut file = SocFile::new(Soc::builtin_text("snapdragon-8-gen-3").unwrap()).unwrap();
        let measurement = GROUPS.iter().flat_map(|group| group.iter()).find(|parameter| parameter.key.is_none());
        file.set(measurement.unwrap(), GPU_MEASUREMENT_SECONDS * 1e6).unwrap();
        file
    }

    #[test]
    fn every_fact_of_the_fit_is_within_15_percent_in_the_built_in_file() {
        let phone = built_in().phone().unwrap();
        for fact in facts().iter().filter(|fact| fact.used == Use::Fit) {
            let simulated = (fact.simulate)(&phone);
            let error = fact.error(simulated);
            assert!(error.abs() <= 0.15, "{}: {simulated:?} {}, off by {error}", fact.name, fact.unit);
        }
    }

    #[test]
    fn no_single_parameter_of_the_built_in_file_can_be_improved_much() {
        let facts = facts();
        let file = built_in();
        let least = loss(&file, &facts).unwrap();
        for parameter in GROUPS.iter().flat_map(|group| group.iter()) {
            for factor in [0.97, 1.03] {
                let mut changed = file.clone();
                let value = changed.get(parameter).unwrap() * factor;
                changed.set(parameter, value.clamp(parameter.bounds.0, parameter.bounds.1)).unwrap();
                let loss = loss(&changed, &facts).unwrap();
                assert!(loss > 0.995 * least, "{} times {factor}: {loss} < {least}", parameter.name());
            }
        }
    }

    #[test]
    fn an_error_is_zero_inside_a_range_and_relative_outside() {
        let facts = facts();
        let range = facts.iter().find(|fact| fact.value == (35e3, 50e3)).unwrap();
        assert_eq!(range.error((36e3, 49e3)), 0.0);
        assert!((range.error((36e3, 60e3)) - 0.2).abs() < 1e-12);
        assert!((range.error((28e3, 52e3)) + 0.2).abs() < 1e-12);
    }
}
