//! `hetero doctor`: looks at the machine closely, and says what to do.

use hetero_llama::DeviceOptions;
use hetero_llama::doctor::{self, Finding, Health};
use serde::Serialize;

use crate::error::CliError;
use crate::json::{self, SCHEMA};
use crate::output::write_stdout;
use crate::together;

/// Look at memory, processors and their drivers, and at what was measured of them; say what is in the way
///
/// GPU drivers are tried at the operators of a model: what they compute wrong is left out or computed another way.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder in which measurements are kept [default: $HETERO_PROFILES, or the user's folder for caches]
    #[arg(long, value_name = "PATH")]
    profiles: Option<std::path::PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Looks and prints.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let folder = together::profile_folder(args.profiles.as_deref());
    let options = DeviceOptions {
        cache: folder.as_ref().map(|folder| folder.path().to_path_buf()),
        gpu_kernels: together::gpu_kernels(),
        ..DeviceOptions::default()
    };
    let findings = doctor::examine(&options, folder.as_ref())?;
    if args.json {
        return json::print(&Document { schema: SCHEMA, findings: findings.iter().map(Row::from).collect() });
    }
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for row in findings.iter().map(Row::from) {
        text.push_str(&format!("{:width$}  {:7}  {}\n", row.subject, row.health, row.text));
        if let Some(fix) = row.fix {
            text.push_str(&format!("{:width$}  {:7}  fix: {fix}\n", "", ""));
        }
    }
    write_stdout(&text)
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    findings: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    /// A processor, `memory` or `profiles`.
    subject: &'a str,
    /// `good`, `note` or `trouble`.
    health: &'static str,
    /// What was found.
    text: &'a str,
    /// What to do about it; null where there is nothing to do.
    fix: Option<&'a str>,
}

impl<'a> From<&'a Finding> for Row<'a> {
    fn from(finding: &'a Finding) -> Self {
        let health = match finding.health {
            Health::Good => "good",
            Health::Note => "note",
            Health::Trouble => "trouble",
        };
        Row { subject: &finding.subject, health, text: &finding.text, fix: finding.fix.as_deref() }
    }
}
