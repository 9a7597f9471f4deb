//! Conversations to prompts, by the model's own Jinja template.
//!
//! A template is a program that comes with the model, so it runs in a closed room: it can load no other template, it
//! has a budget of steps, of output and of nesting, and it sees the conversation, the special tokens and today's date.
//! What one template can still do is ask for much memory by doubling a text, as in any Jinja engine; a model from a
//! stranger belongs under the memory limits of the operating system.
//!
//! Where transformers and Jinja leave room, this does what transformers does: `trim_blocks` and `lstrip_blocks` are
//! on, the methods of Python's strings and dictionaries are there, and so are `raise_exception`, `strftime_now`, loop
//! controls and the `generation` block.

mod engine;
mod source;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};

use minijinja::value::{Serde, merge_maps};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use self::engine::{CappedOutput, Refusal};
use crate::error::{LlamaError, shorten};

pub use self::source::SpecialTokens;

/// The steps that one rendering may take. Templates of today take some hundred a message.
const MAX_STEPS: u64 = 10_000_000;
/// The longest prompt in bytes.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Macro calls and loops inside of each other.
const MAX_DEPTH: usize = 100;
/// The longest template in bytes. The longest of today have 20 KB.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A conversation with everything that templates may ask for; read from JSON by its `Deserialize`.
///
/// A message may have more than a role and a content here, such as `tool_calls`. The keys of its objects keep their
/// order, which shows in the text of templates that write tools as JSON.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Conversation {
    messages: Value,
    /// Ends the prompt where the assistant begins to speak.
    #[serde(default)]
    pub add_generation_prompt: bool,
    #[serde(default)]
    tools: Value,
    /// What a template may know by a name of its own, such as `date_string`.
    #[serde(default)]
    variables: BTreeMap<String, Value>,
}

impl Conversation {
    /// A conversation of plain turns.
    pub fn new(messages: &[Message], add_generation_prompt: bool) -> Conversation {
        Conversation { messages: Value::from(Serde(messages)), add_generation_prompt, ..Conversation::default() }
    }
}

/// A model's template, compiled.
///
/// ```
/// use std::path::Path;
/// use hetero_llama::chat_template::{ChatTemplate, Message, SpecialTokens};
///
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}";
/// let template = ChatTemplate::new(source, "default", Path::new("chat_template.jinja"), SpecialTokens::default())?;
/// assert_eq!(template.render(&[Message::new("user", " hi ")], true)?, "<user>hi");
/// # Ok::<(), hetero_llama::LlamaError>(())
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: SpecialTokens,
    /// Which of a model's templates it is, mostly `default`.
    name: String,
    file: PathBuf,
}

impl ChatTemplate {
    /// Compiles `source`, which came from `file`. `name` tells it from other templates of the model.
    pub fn new(source: &str, name: &str, file: &Path, tokens: SpecialTokens) -> Result<ChatTemplate, LlamaError> {
        let template =
            ChatTemplate { environment: engine::environment(), tokens, name: shorten(name), file: file.to_path_buf() };
        if source.len() > MAX_SOURCE_BYTES {
            return Err(template.limit(format!("{MAX_SOURCE_BYTES} bytes of template")));
        }
        template.compile(source)
    }

    fn compile(mut self, source: &str) -> Result<ChatTemplate, LlamaError> {
        let source = engine::plain_blocks(source);
        match self.environment.add_template_owned(engine::TEMPLATE, source) {
            Ok(()) => Ok(self),
            Err(error) => Err(LlamaError::TemplateSyntax {
                file: self.file,
                template: self.name,
                line: error.line().unwrap_or(0),
                found: shorten(&error.to_string()),
            }),
        }
    }

    /// Makes `strftime_now` tell this time instead of the present, in UTC: seconds since 1970.
    pub fn with_fixed_time(mut self, unix_seconds: i64) -> ChatTemplate {
        engine::fix_time(&mut self.environment, unix_seconds);
        self
    }

    /// The prompt of plain turns. With `add_generation_prompt` it ends where the assistant begins to speak.
    ///
    /// The special tokens are in the text already: it is to be tokenised without adding any.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, LlamaError> {
        self.render_conversation(&Conversation::new(messages, add_generation_prompt))
    }

    /// The prompt of a conversation, see [`ChatTemplate::render`].
    pub fn render_conversation(&self, conversation: &Conversation) -> Result<String, LlamaError> {
        let template = self.environment.get_template(engine::TEMPLATE).map_err(|error| self.failed(&error))?;
        // Keys that transformers always passes are there as none, because templates test for `is not none`.
        let tools = match conversation.tools.is_undefined() {
            true => Value::from(()),
            false => conversation.tools.clone(),
        };
        let call = context! {
            messages => conversation.messages.clone(),
            add_generation_prompt => conversation.add_generation_prompt,
            tools,
            documents => (),
        };
        let variables = Value::from_pairs(conversation.variables.iter());
        // Of equal names the last one counts.
        let variables = merge_maps([Value::from(Serde(&self.tokens)), variables, call]);
        let mut output = CappedOutput::new(MAX_OUTPUT_BYTES);
        match template.render_captured_to(variables, &mut output) {
            Ok(_) => output.into_text().map_err(|error| LlamaError::TemplateFailed {
                file: self.file.clone(),
                template: self.name.clone(),
                line: 0,
                found: error.to_string(),
            }),
            Err(_) if output.is_full() => Err(self.limit(format!("{MAX_OUTPUT_BYTES} bytes of text"))),
            Err(error) => Err(self.render_error(&error)),
        }
    }

    fn render_error(&self, error: &minijinja::Error) -> LlamaError {
        // The reason may be wrapped by the macros and blocks in which it arose.
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = source {
            if let Some(Refusal(message)) = inner.downcast_ref() {
                return LlamaError::TemplateRefused {
                    file: self.file.clone(),
                    template: self.name.clone(),
                    found: shorten(message),
                };
            }
            if let Some(inner) = inner.downcast_ref::<minijinja::Error>()
                && inner.kind() == ErrorKind::OutOfFuel
            {
                return self.limit(format!("{MAX_STEPS} steps"));
            }
            source = inner.source();
        }
        self.failed(error)
    }

    fn failed(&self, error: &minijinja::Error) -> LlamaError {
        LlamaError::TemplateFailed {
            file: self.file.clone(),
            template: self.name.clone(),
            line: error.line().unwrap_or(0),
            found: shorten(&error.to_string()),
        }
    }

    fn limit(&self, expected: String) -> LlamaError {
        LlamaError::TemplateLimit { file: self.file.clone(), template: self.name.clone(), expected }
    }
}

impl Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template {} of {}", self.name, self.file.display())
    }
}
