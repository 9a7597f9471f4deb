//! `cargo xtask ci` and `cargo xtask test`: all checks as a list of named steps.

mod arm;
mod command;
mod gpu;
mod needs;
mod readme;
mod report;
mod steps;
mod tally;

use crate::workspace;
use anyhow::{Context as _, Result, bail};
use cargo_metadata::Metadata;
use command::{Finished, Invocation};
use needs::Need;
use report::{StepReport, Verdict};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;
use tally::Tally;

/// Lines of a failed command's output that are shown; its log has all.
const SHOWN_LINES: usize = 400;

/// Arguments of `ci` and `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing first: Debian packages (needs root), Rust targets and components
    #[arg(long)]
    install_deps: bool,
    /// Run only these steps
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these steps out
    #[arg(long, value_name = "STEP", value_delimiter = ',')]
    except: Vec<String>,
    /// List the steps and what each needs, then stop
    #[arg(long)]
    list: bool,
    /// Show the output of every command, not only of those that fail
    #[arg(short, long)]
    verbose: bool,
}

/// One named check.
struct Step {
    name: &'static str,
    about: &'static str,
    needs: &'static [Need],
    run: fn(&mut Run) -> Result<()>,
}

/// What a step works with: it runs commands here, and results gather.
struct Run {
    metadata: Metadata,
    ignore_reasons: BTreeMap<String, String>,
    log_dir: PathBuf,
    verbose: bool,
    step: &'static str,
    n_commands: usize,
    tally: Tally,
    failures: Vec<String>,
    skip: Option<String>,
}

impl Run {
    /// Runs a command; a failure is shown and fails the step, which goes on.
    fn check(&mut self, line: Invocation) -> Result<Finished> {
        println!("    $ {line}");
        self.n_commands += 1;
        let log = self.log_dir.join(format!("{}-{}.log", self.step, self.n_commands));
        let finished = line.run_logged(&log, self.verbose)?;
        if !finished.success {
            if !self.verbose {
                show_end(&finished.output);
            }
            println!("    {}; log: {}", finished.ending, log.display());
            self.failures.push(format!("{}: {}", line.brief(), finished.ending));
        }
        Ok(finished)
    }

    /// Runs a command that runs tests, and counts them; false if it failed before the first test.
    fn check_tests(&mut self, line: Invocation) -> Result<bool> {
        let runner = line.runner();
        let finished = self.check(line)?;
        let tally = Tally::of(runner, &finished.output, &self.ignore_reasons);
        println!("      {} passed, {} failed", tally.passed, tally.failed);
        let ran = finished.success || tally.passed + tally.failed > 0;
        self.tally.add(tally);
        Ok(ran)
    }

    /// Fails the step, which goes on.
    fn fail(&mut self, reason: String) {
        println!("    {reason}");
        self.failures.push(reason);
    }

    /// Names a part of the step that cannot run here.
    fn skip_part(&mut self, name: &str, reason: &str) {
        let entry = (name.to_owned(), reason.to_owned());
        self.tally.skips.insert(entry);
    }

    /// Ends the step as skipped, unless something in it failed.
    fn skip_step(&mut self, reason: &str) {
        self.skip = Some(reason.to_owned());
    }
}

fn show_end(output: &str) {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    if from > 0 {
        println!("      ... {from} lines before");
    }
    for line in &lines[from..] {
        println!("      {line}");
    }
}

/// Runs the chosen steps and prints the table; an error if any failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let steps = chosen(args)?;
    if args.list {
        return list(&steps);
    }
    let log_dir = workspace::target_dir().join("ci");
    fs::create_dir_all(&log_dir).with_context(|| format!("cannot make {}", log_dir.display()))?;
    env::set_current_dir(workspace::root())?;
    let began = Instant::now();

    let mut needs: Vec<Need> = steps.iter().flat_map(|step| step.needs).copied().collect();
    needs.sort_unstable();
    needs.dedup();
    if args.install_deps {
        println!("==> install-deps");
        needs::install(&needs, &log_dir);
        println!("    {:.1} s", began.elapsed().as_secs_f64());
    } else {
        let remedies = needs::remedies(&needs);
        if !remedies.is_empty() {
            println!("Some steps will be skipped. This brings what they miss (--install-deps runs it):");
            for remedy in &remedies {
                println!("    {remedy}");
            }
        }
    }

    let rust_files = crate::tidy::files_with_extension(&workspace::root(), "rs");
    let mut run = Run {
        metadata: workspace::metadata()?,
        ignore_reasons: tally::ignore_reasons(&rust_files),
        log_dir,
        verbose: args.verbose,
        step: "",
        n_commands: 0,
        tally: Tally::default(),
        failures: Vec::new(),
        skip: None,
    };
    let reports: Vec<StepReport> = steps.iter().map(|step| run_step(step, &mut run)).collect();
    match report::print(&reports, began.elapsed()) {
        0 => Ok(()),
        n => bail!("{n} failed"),
    }
}

fn run_step(step: &Step, run: &mut Run) -> StepReport {
    println!("==> {}: {}", step.name, step.about);
    let began = Instant::now();
    (run.step, run.n_commands) = (step.name, 0);
    let missing: Vec<String> = step.needs.iter().filter(|need| !need.is_met()).map(|need| need.title()).collect();
    let verdict = if missing.is_empty() {
        if let Err(error) = (step.run)(run) {
            run.fail(format!("{error:#}"));
        }
        let failures = std::mem::take(&mut run.failures);
        match run.skip.take() {
            _ if !failures.is_empty() => Verdict::Failed(failures),
            Some(reason) => Verdict::Skipped(reason),
            None => Verdict::Passed,
        }
    } else {
        Verdict::Skipped(format!("not on this machine: {}", missing.join(", ")))
    };
    let report = StepReport { name: step.name, verdict, took: began.elapsed(), tally: std::mem::take(&mut run.tally) };
    println!("    {:.1} s", report.took.as_secs_f64());
    report
}

fn chosen(args: &Args) -> Result<Vec<&'static Step>> {
    let names: Vec<&str> = steps::ALL.iter().map(|step| step.name).collect();
    for name in args.only.iter().chain(&args.except) {
        if !names.contains(&name.as_str()) {
            bail!("no step is called `{name}`; there are {}", names.join(", "));
        }
    }
    let wanted = |step: &&Step| {
        let name = step.name.to_owned();
        (args.only.is_empty() || args.only.contains(&name)) && !args.except.contains(&name)
    };
    Ok(steps::ALL.iter().filter(wanted).collect())
}

fn list(steps: &[&Step]) -> Result<()> {
    for step in steps {
        println!("{:<12} {}", step.name, step.about);
        for need in step.needs {
            let state = if need.is_met() { "" } else { " (missing)" };
            println!("{:<12}   needs {}{state}", "", need.title());
        }
    }
    Ok(())
}
