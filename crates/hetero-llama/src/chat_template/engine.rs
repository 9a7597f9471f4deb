//! The Jinja engine, set up as transformers sets up its own, and with limits.

use std::fmt;
use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::{MAX_DEPTH, MAX_STEPS};

/// The name of the one template of an environment.
pub(super) const TEMPLATE: &str = "chat_template";

/// The message of `raise_exception`, as the source of the engine's error.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the default ones"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", to_json);
    environment.add_function("strftime_now", |format: &str| format_time(format, Timestamp::now(), TimeZone::system()));
    environment
}

/// Replaces the clock of `strftime_now`.
pub(super) fn fix_time(environment: &mut Environment<'static>, unix_seconds: i64) {
    environment.add_function("strftime_now", move |format: &str| {
        let time = Timestamp::from_second(unix_seconds)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
        format_time(format, time, TimeZone::UTC)
    });
}

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Refusal(message)))
}

fn format_time(format: &str, time: Timestamp, zone: TimeZone) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &time.to_zoned(zone))
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// `tojson` of transformers: `json.dumps` with `ensure_ascii=False`, and no escaping for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted with the values that change nothing here.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    match indent {
        None => write_json(value, PythonFormatter),
        Some(width) if width <= 16 => write_json(value, PrettyFormatter::with_indent(" ".repeat(width).as_bytes())),
        Some(_) => Err(Error::new(ErrorKind::InvalidOperation, "indent is at most 16")),
    }
}

fn write_json(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    value.serialize(&mut serializer).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// One line, with a space behind commas and colons.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Turns the `generation` block of transformers, which marks what the assistant said for training, into a block that
/// always renders. The engine does not know the tag.
pub(super) fn plain_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        plain.push_str(before);
        // The end is looked for behind the start, because the two share a sign in `{%}`.
        let Some(length) = tag[2..].find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..2 + length];
        let (tag, after) = tag.split_at(2 + length + 2);
        let word = inner.trim_start_matches(['-', '+']).trim_end_matches('-').trim();
        match word {
            "generation" => plain.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => plain.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => plain.push_str(tag),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}

/// Collects output up to a limit.
pub(super) struct CappedOutput {
    bytes: Vec<u8>,
    limit: usize,
    is_full: bool,
}

impl CappedOutput {
    pub(super) fn new(limit: usize) -> CappedOutput {
        CappedOutput { bytes: Vec::new(), limit, is_full: false }
    }

    /// Whether more was written than the limit allows.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn into_text(self) -> Result<String, std::string::FromUtf8Error> {
        String::from_utf8(self.bytes)
    }
}

impl Write for CappedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        environment().render_str(source, ()).expect("a text")
    }

    #[test]
    fn json_is_that_of_python() {
        let value = r#"{'b': [1, 2.5, "é<'", none], 'a': {}}"#;
        assert_eq!(render(&format!("{{{{ {value} | tojson }}}}")), r#"{"b": [1, 2.5, "é<'", null], "a": {}}"#);
        assert_eq!(
            render(&format!("{{{{ {value} | tojson(indent=2) }}}}")),
            "{\n  \"b\": [\n    1,\n    2.5,\n    \"é<'\",\n    null\n  ],\n  \"a\": {}\n}"
        );
    }

    #[test]
    fn generation_blocks_are_seen_through() {
        assert_eq!(
            plain_blocks("a{%- generation -%} b {% endgeneration %}{% if generation %}{% endif %}{% x"),
            "a{%- if true -%} b {% endif %}{% if generation %}{% endif %}{% x"
        );
        assert_eq!(render(&plain_blocks("{% generation %}b{% endgeneration %}c")), "bc");
    }

    #[test]
    fn broken_tags_are_left_as_they_are() {
        for source in ["{%}", "{%%}", "{%", "%}{%}%}", "{%-%}{%generation", "é{%é%}é"] {
            assert_eq!(plain_blocks(source), source);
        }
    }

    #[test]
    fn loop_controls_are_there() {
        assert_eq!(render("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"), "1");
    }

    #[test]
    fn time_is_told_as_python_tells_it() {
        let mut environment = environment();
        fix_time(&mut environment, 1_721_992_000);
        let text = environment.render_str("{{ strftime_now('%d %b %Y, %A') }}", ());
        assert_eq!(text.expect("a text"), "26 Jul 2024, Friday");
        assert!(environment.render_str("{{ strftime_now('%!') }}", ()).is_err());
    }
}
