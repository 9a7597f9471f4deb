//! Everything that can go wrong between a user's files and a token, typed.
//!
//! Each message names the file, the tensor or key, what was expected and what was found; [`LlamaError::fix`] says what
//! the user can do about it, and [`LlamaError::is_bad_input`] tells a wrong input from a failure while running.

mod fix;
mod team;
mod text;

use std::path::PathBuf;

use hetero_core::WeightFormat;
use thiserror::Error;

pub use self::team::TeamError;
use self::text::nearest_text;
pub(crate) use self::text::shorten;

/// A failure of `hetero-llama`.
///
/// `file` is the file at fault; for bytes that came from memory it is the name that the caller gave to them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// A file or a folder that has to be there is not.
    #[error("{}: expected {expected}, found nothing at this path", file.display())]
    MissingFile {
        /// The path that was looked at.
        file: PathBuf,
        /// What should have been there.
        expected: &'static str,
    },

    /// The path exists and is of another kind: a folder for a file, a file for a folder, or a format that is not read.
    #[error("{}: expected {expected}, found {found}", file.display())]
    WrongFileKind {
        /// The path that was looked at.
        file: PathBuf,
        /// What should have been there.
        expected: &'static str,
        /// What is there.
        found: String,
    },

    /// The operating system refused to read a file.
    #[error("{}: expected a readable file, found: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A Git LFS pointer stands where the content should be: the repository was cloned without its large files.
    #[error("{}: expected {expected}, found a Git LFS pointer to it", file.display())]
    LfsPointer {
        /// The pointer file.
        file: PathBuf,
        /// What the pointer stands for.
        expected: &'static str,
    },

    /// A JSON file that is not JSON, or whose top level is not of the kind it has to be.
    #[error("{}: expected {expected}, found: {found}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What the file should hold.
        expected: &'static str,
        /// What the parser said, with line and column.
        found: String,
    },

    /// A key of a JSON file is absent, of the wrong type or out of range.
    #[error("{}: `{key}`: expected {expected}, found {found}", file.display())]
    BadValue {
        /// The file.
        file: PathBuf,
        /// The key, with dots for nesting.
        key: String,
        /// The values that are allowed.
        expected: String,
        /// The value in the file.
        found: String,
    },

    /// A correct model that asks for something this crate does not do. It is refused, because ignoring the key would
    /// give wrong tokens without a word.
    #[error("{}: `{key}`: expected {expected}, found {found}, which is not supported", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The key, with dots for nesting.
        key: String,
        /// What is supported.
        expected: String,
        /// The value in the file.
        found: String,
    },

    /// A safetensors file whose frame is damaged: header length, header JSON, or coverage of the data.
    #[error("{}: safetensors header: expected {expected}, found {found}", file.display())]
    WeightsHeader {
        /// The file.
        file: PathBuf,
        /// What a sound file has.
        expected: String,
        /// What this file has.
        found: String,
    },

    /// The bytes that the header gives to a tensor are not the bytes that it needs, or are not in the file.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", file.display())]
    TensorExtent {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The extent that its shape and dtype ask for.
        expected: String,
        /// The extent in the header.
        found: String,
    },

    /// A tensor of a dtype that weights cannot have here.
    #[error("{}: tensor `{tensor}`: expected dtype {expected}, found {found}", file.display())]
    TensorDtype {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The dtypes that are read.
        expected: &'static str,
        /// The dtype in the header.
        found: String,
    },

    /// A tensor whose shape contradicts the model's configuration.
    #[error("{}: tensor `{tensor}`: expected shape {expected:?} from config.json, found {found:?}", file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that the configuration asks for, outermost first.
        expected: Vec<usize>,
        /// The shape in the file, outermost first.
        found: Vec<usize>,
    },

    /// A tensor that the configuration asks for is in no file of the checkpoint.
    #[error("{}: tensor `{tensor}`: expected {expected}, found no tensor of this name{}", file.display(), nearest_text(nearest))]
    MissingTensor {
        /// The checkpoint's file or folder.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the configuration or the index asks for.
        expected: String,
        /// A name in the checkpoint that looks alike.
        nearest: Option<String>,
    },

    /// A tensor whose presence contradicts the model's configuration: leaving it out would give wrong tokens.
    #[error("{}: tensor `{tensor}`: expected {expected}, found such a tensor", file.display())]
    UnexpectedTensor {
        /// The checkpoint's file or folder.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the configuration says.
        expected: String,
    },

    /// One name stands in two places of a checkpoint.
    #[error("{}: tensor `{tensor}`: expected one definition, found a second one in {}", file.display(), second.display())]
    DuplicateTensor {
        /// The file that has the first one.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The file that has the second one.
        second: PathBuf,
    },

    /// The index of a sharded checkpoint names a shard that is not a plain file name beside it.
    #[error("{}: `weight_map.{tensor}`: expected a plain file name, found `{found}`", file.display())]
    ShardName {
        /// The index file.
        file: PathBuf,
        /// The tensor whose entry is wrong.
        tensor: String,
        /// The name in the index.
        found: String,
    },

    /// A shard that the index names is not there.
    #[error("{}: `weight_map`: expected the shard {} for tensor `{tensor}`, found no such file", file.display(), shard.display())]
    MissingShard {
        /// The index file.
        file: PathBuf,
        /// The shard's path.
        shard: PathBuf,
        /// A tensor that should be in it.
        tensor: String,
    },

    /// A weight file became shorter while it was mapped.
    #[error("{}: expected the {expected} bytes that it had when it was opened, found {found}", file.display())]
    FileChanged {
        /// The file.
        file: PathBuf,
        /// Its length in bytes when it was opened.
        expected: u64,
        /// Its length in bytes now.
        found: u64,
    },

    /// `tokenizer.json` cannot be used.
    #[error("{}: tokenizer: expected a tokenizer.json of the tokenizers library, found: {found}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What the tokenizers library said.
        found: String,
    },

    /// The tokenizer knows tokens that the model has no row for.
    #[error("{}: vocabulary: expected token ids below {expected} (`vocab_size` of config.json), found {found}", file.display())]
    TokenizerVocabulary {
        /// The tokenizer's file.
        file: PathBuf,
        /// The model's vocabulary size, in tokens.
        expected: usize,
        /// The largest token id of the tokenizer.
        found: u32,
    },

    /// The tokenizer failed on a text or on tokens.
    #[error("{}: tokenizer failed to {action}: {found}", file.display())]
    Tokenize {
        /// The tokenizer's file.
        file: PathBuf,
        /// What was asked for: `encode` or `decode`.
        action: &'static str,
        /// What the tokenizers library said.
        found: String,
    },

    /// The model's folder has no chat template.
    #[error("{}: `chat_template`: expected a template, found none", file.display())]
    MissingTemplate {
        /// Where it was looked for.
        file: PathBuf,
    },

    /// The chat template does not parse.
    #[error("{}: chat template `{template}`: expected valid Jinja, found a syntax error in line {line}: {found}", file.display())]
    TemplateSyntax {
        /// The file that holds the template.
        file: PathBuf,
        /// The template's name.
        template: String,
        /// The line in the template, from 1.
        line: usize,
        /// What the parser said.
        found: String,
    },

    /// The chat template refused the conversation with `raise_exception`.
    #[error("{}: chat template `{template}`: expected a conversation that the template takes, found its refusal: {found}", file.display())]
    TemplateRefused {
        /// The file that holds the template.
        file: PathBuf,
        /// The template's name.
        template: String,
        /// What the template said.
        found: String,
    },

    /// The chat template failed while it was rendered.
    #[error("{}: chat template `{template}`: expected text, found an error in line {line}: {found}", file.display())]
    TemplateFailed {
        /// The file that holds the template.
        file: PathBuf,
        /// The template's name.
        template: String,
        /// The line in the template, from 1.
        line: usize,
        /// What the engine said.
        found: String,
    },

    /// The chat template wanted more work, text or nesting than any honest template needs.
    #[error("{}: chat template `{template}`: expected at most {expected}, found more", file.display())]
    TemplateLimit {
        /// The file that holds the template.
        file: PathBuf,
        /// The template's name.
        template: String,
        /// The limit that was reached.
        expected: String,
    },

    /// A device that no version of hetero knows.
    #[error("device `{name}`: expected one of {known}, found an unknown name")]
    UnknownDevice {
        /// The name that was given.
        name: String,
        /// The names that exist.
        known: String,
    },

    /// A simulated SoC that cannot be read.
    #[cfg(feature = "npu-sim")]
    #[error(transparent)]
    Soc(#[from] backend_npu_sim::SocError),

    /// Faults to order that cannot be read.
    #[cfg(feature = "npu-sim")]
    #[error(transparent)]
    Faults(#[from] backend_npu_sim::FaultPlanError),

    /// A device that this build leaves out.
    #[error("device `{name}`: expected it in this build, found that its cargo feature is off")]
    DeviceNotBuilt {
        /// The name that was given.
        name: String,
        /// The feature that it needs.
        feature: &'static str,
    },

    /// Devices that cannot share the work in the way that was asked for.
    #[error(transparent)]
    Team(#[from] TeamError),

    /// A device that is there and cannot be used.
    #[error("device `{name}` cannot be used: {reason}")]
    DeviceUnusable {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
        /// What its backend advises.
        fix: String,
    },

    /// A build without any device.
    #[error("devices: expected at least one, found none")]
    NoDevice,

    /// A context length that the model was not made for.
    #[error("option `context`: expected 1 to {limit} (`max_position_embeddings` of config.json), found {asked}")]
    BadContext {
        /// The length that was asked for, in tokens.
        asked: usize,
        /// The model's limit, in tokens.
        limit: usize,
    },

    /// The model needs more memory than there is; found out before anything is loaded.
    #[error("memory: expected {} MB free ({} MB of weights, {} MB of KV cache and working memory), found {} MB", needed_bytes >> 20, weight_bytes >> 20, (needed_bytes - weight_bytes) >> 20, available_bytes >> 20)]
    DoesNotFit {
        /// All that is needed.
        needed_bytes: u64,
        /// All that there is.
        available_bytes: u64,
        /// The weights' part of the need.
        weight_bytes: u64,
    },

    /// A prompt without a token.
    #[error("prompt: expected at least one token, found none")]
    EmptyPrompt,

    /// A prompt that leaves no room in the KV cache for a token after it.
    #[error("prompt: expected fewer tokens than the context of {context}, found {tokens}")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the KV cache.
        context: usize,
    },

    /// More tokens than the KV cache has room for.
    #[error("context: expected at most {context} tokens, found {needed}")]
    ContextFull {
        /// Tokens that were to be in the cache.
        needed: usize,
        /// Positions of the KV cache.
        context: usize,
    },

    /// A token id that the model has no row for.
    #[error("token id: expected ids below {vocabulary} (`vocab_size` of config.json), found {token}")]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// The model's vocabulary size.
        vocabulary: usize,
    },

    /// Windows of a perplexity that do not fit the context.
    #[error(
        "windows of {length} tokens with a stride of {stride}: expected at most {room} tokens and a stride of 1 to the length"
    )]
    BadWindows {
        /// Tokens of a window.
        length: usize,
        /// Tokens from one window to the next.
        stride: usize,
        /// Tokens that the context has room for.
        room: usize,
    },

    /// A text too short to say anything about.
    #[error("text: expected at least two tokens, found {tokens}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
    },

    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,

    /// A device failed, or a plan cannot run on the devices.
    #[error(transparent)]
    Run(#[from] hetero_sched::SchedError),

    /// The operating system refused to write a file.
    #[error("{}: expected to write it, found: {source}", file.display())]
    Write {
        /// The file or folder.
        file: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A folder that is to be filled has something in it.
    #[error("{}: expected an empty or absent folder, found files in it", folder.display())]
    FolderNotEmpty {
        /// The folder.
        folder: PathBuf,
    },

    /// A model that is to be quantised is quantised already.
    #[error("{model}: expected weights in f32, f16 or bf16, found {format}, as `hetero quantize` writes them")]
    AlreadyPacked {
        /// The model.
        model: String,
        /// What its weights are stored in.
        format: WeightFormat,
    },

    /// A model that is stored in one format is asked for in another.
    #[error("{model}: expected `--weights {stored}`, as its weights are stored, found `--weights {asked}`")]
    PackedOtherwise {
        /// The model.
        model: String,
        /// What its weights are stored in.
        stored: WeightFormat,
        /// What was asked for.
        asked: WeightFormat,
    },

    /// A sampling option out of its range.
    #[error("option `{option}`: expected {expected}, found {found}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// The values that are allowed.
        expected: &'static str,
        /// The value that was given.
        found: String,
    },

    /// The model computed logits that are not numbers, so no token can be chosen.
    #[error("logits: expected finite numbers, found {found} at token {token}")]
    BadLogits {
        /// The first token id whose logit is wrong.
        token: usize,
        /// Its value.
        found: f32,
    },
}
