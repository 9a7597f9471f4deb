//! `hetero chat`: a conversation, on a terminal or line by line from a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;

use hetero_llama::chat_template::{ChatTemplate, Message};
use hetero_llama::sampler::SamplerConfig;
use hetero_llama::{FinishReason, GenerateOptions, GenerationStats, LlamaError, Model, Session};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::error::CliError;
use crate::interrupt::Interrupt;
use crate::options::ModelArgs;
use crate::output::note;
use crate::sampling::SamplingArgs;
use crate::stream;

/// Talk to a model with its chat template
///
/// Without a terminal each line of standard input is a message, and each reply is printed on standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = COMMANDS)]
pub(crate) struct Args {
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The most tokens of a reply
    #[arg(short = 'n', long = "max-tokens", value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

const COMMANDS: &str = "\
In the conversation:
  /help   this list
  /reset  start a new conversation
  /stats  length of the conversation and speed of the last reply
  /exit   leave; so does Ctrl-D
Ctrl-C ends a reply.";

/// Talks until the user leaves.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let mut input = Input::open()?;
    // After the editor, which takes Ctrl-C for itself when it is made.
    let interrupt = Interrupt::install();
    let model = args.model.load(None)?;
    let mut conversation = Conversation::new(&model, args)?;
    args.model.tell_facts(&model);
    let is_interactive = matches!(input, Input::Editor(_));
    if is_interactive {
        note("/help lists the commands");
    }
    while let Some(line) = input.read()? {
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/help" => note(COMMANDS),
            "/reset" => {
                conversation.reset();
                note("a new conversation");
            }
            "/stats" => conversation.tell_stats(),
            command if command.starts_with('/') => {
                note(format_args!("there is no command {command}; /help lists those that there are"));
            }
            message => match conversation.reply(message, &interrupt) {
                // A conversation can go on after a message that the model cannot take.
                Err(error @ (CliError::Llama(_) | CliError::Usage { .. })) if is_interactive => error.report(),
                result => result?,
            },
        }
    }
    Ok(())
}

/// Messages and what the model has made of them.
struct Conversation<'a> {
    session: Session,
    template: ChatTemplate,
    options: GenerateOptions,
    system: Option<&'a str>,
    messages: Vec<Message>,
    /// Replies since the program began; gives each its own random numbers.
    n_replies: u64,
    last: Option<GenerationStats>,
}

impl<'a> Conversation<'a> {
    fn new(model: &Arc<Model>, args: &'a Args) -> Result<Conversation<'a>, CliError> {
        let template = model.chat_template().map_err(|error| match error {
            LlamaError::MissingTemplate { .. } | LlamaError::MissingFile { .. } => CliError::Usage {
                message: format!("model {}: expected one with a chat template, found none", args.model.name()),
                fix: "use the chat variant of the model, or continue a text with `hetero run`".into(),
            },
            error => error.into(),
        })?;
        let mut conversation = Conversation {
            session: Session::new(model)?,
            template,
            options: GenerateOptions {
                max_tokens: args.max_tokens,
                sampler: args.sampling.config(model)?,
                stop: args.sampling.stop.clone(),
            },
            system: args.system.as_deref(),
            messages: Vec::new(),
            n_replies: 0,
            last: None,
        };
        conversation.reset();
        Ok(conversation)
    }

    fn reset(&mut self) {
        self.messages = self.system.map(|text| Message::new("system", text)).into_iter().collect();
    }

    /// Prints the reply to a message. After an error the message is forgotten.
    fn reply(&mut self, message: &str, interrupt: &Interrupt) -> Result<(), CliError> {
        let n_before = self.messages.len();
        self.messages.push(Message::new("user", message));
        let result = self.try_reply(interrupt);
        match &result {
            Ok(text) if !text.is_empty() => self.messages.push(Message::new("assistant", text)),
            _ => self.messages.truncate(n_before),
        }
        result.map(drop)
    }

    fn try_reply(&mut self, interrupt: &Interrupt) -> Result<String, CliError> {
        // The whole conversation is tokenised anew, as the model was trained on it. What the cache has of it already is
        // not computed again.
        let text = self.template.render(&self.messages, true)?;
        let prompt = self.session.model().tokenizer()?.encode(&text, false)?;
        let context = self.session.context();
        if prompt.len() >= context {
            return Err(CliError::Usage {
                message: format!("the conversation has {} tokens and the context has room for {context}", prompt.len()),
                fix: "start a new one with /reset, or start again with a longer --context if the model allows it"
                    .into(),
            });
        }
        let mut sampler = self.options.sampler.options().clone();
        sampler.seed = sampler.seed.wrapping_add(self.n_replies);
        let options = GenerateOptions { sampler: SamplerConfig::new(sampler)?, ..self.options.clone() };
        let reply = stream::print(&mut self.session, &prompt, &options, "", interrupt)?;
        self.n_replies += 1;
        self.last = Some(reply.stats);
        match reply.finish_reason {
            FinishReason::ContextFull => note(format_args!(
                "the context of {context} tokens is full: /reset starts a new conversation, --context sets its length"
            )),
            FinishReason::MaxTokens => {
                note(format_args!("ended after {} tokens; -n allows more", self.options.max_tokens))
            }
            _ => {}
        }
        Ok(reply.text)
    }

    fn tell_stats(&self) {
        let n_tokens = self.session.tokens().len();
        note(format_args!("{n_tokens} of {} tokens of the context are used", self.session.context()));
        if let Some(stats) = &self.last {
            stream::tell_figures(stats, &self.session);
        }
    }
}

/// Where messages come from.
enum Input {
    /// A terminal, with editing and history.
    Editor(Box<DefaultEditor>),
    /// Anything else, line by line.
    Lines,
}

impl Input {
    fn open() -> Result<Input, CliError> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            let editor = DefaultEditor::new().map_err(CliError::Terminal)?;
            return Ok(Input::Editor(Box::new(editor)));
        }
        Ok(Input::Lines)
    }

    /// The next line; `None` when there is none.
    fn read(&mut self) -> Result<Option<String>, CliError> {
        match self {
            Input::Editor(editor) => match editor.readline("> ") {
                Ok(line) => {
                    // Without its history the editor still edits.
                    let _ = editor.add_history_entry(line.as_str());
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof) => Ok(None),
                Err(ReadlineError::Interrupted) => {
                    note("/exit or Ctrl-D leaves");
                    Ok(Some(String::new()))
                }
                Err(error) => Err(CliError::Terminal(error)),
            },
            Input::Lines => {
                let mut line = String::new();
                let n_bytes = io::stdin().lock().read_line(&mut line).map_err(CliError::Stdin)?;
                Ok((n_bytes > 0).then_some(line))
            }
        }
    }
}
