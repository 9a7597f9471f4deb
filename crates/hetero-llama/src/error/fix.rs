//! Whether a failure is the user's to mend, and what can be done about it.

use std::path::Path;

use hetero_core::BackendError;

use super::{LlamaError, TeamError};

impl LlamaError {
    /// Whether a file or an argument is at fault (exit code 2) and not the run itself (exit code 1).
    pub fn is_bad_input(&self) -> bool {
        use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match self {
            Self::BadLogits { .. }
            | Self::Cancelled
            | Self::FileChanged { .. }
            | Self::Run(_)
            | Self::Team(TeamError::NotMeasured { .. })
            | Self::Tokenize { .. } => false,
            // A path that cannot be written to is the user's; a full disk is not.
            Self::Write { source, .. } => {
                matches!(source.kind(), NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem)
            }
            _ => true,
        }
    }

    /// What the user can do about it: one sentence, without a full stop at the end.
    pub fn fix(&self) -> String {
        match self {
            Self::MissingFile { expected, .. } => {
                format!("check the path; it should lead to {expected}")
            }
            Self::WrongFileKind { file, .. } => match extension(file) {
                "gguf" => "give the Hugging Face folder of the same model (config.json, *.safetensors, tokenizer.json); GGUF files are not supported yet".into(),
                "bin" | "pt" | "pth" | "ckpt" => "convert the weights to safetensors, or download the safetensors variant of the model; pickle files can run code and are not read".into(),
                _ => "give the folder that holds config.json, tokenizer.json and the *.safetensors files".into(),
            },
            Self::Read { .. } => "check the permissions of the file and that its disk is attached".into(),
            Self::LfsPointer { .. } => "run `git lfs pull` in the model's folder, or download the file again".into(),
            Self::Json { .. } | Self::BadValue { .. } => "restore the file from the model's original distribution, or correct it by hand".into(),
            Self::Unsupported { expected, .. } => format!("choose a model that has {expected}"),
            Self::WeightsHeader { .. } | Self::TensorExtent { .. } => "the file is truncated or damaged: download it again and compare its checksum".into(),
            Self::TensorDtype { expected, .. } => format!("convert the checkpoint to one of {expected} before loading it"),
            Self::TensorShape { .. } | Self::UnexpectedTensor { .. } => "config.json and the weights are of different models: take both from one distribution".into(),
            Self::MissingTensor { .. } => "the checkpoint is incomplete or of another architecture: download all its files again, with their config.json".into(),
            Self::DuplicateTensor { .. } => "remove the file that does not belong to this model".into(),
            Self::ShardName { .. } => "do not load this checkpoint unless you trust its source: its index points outside its own folder".into(),
            Self::MissingShard { shard, .. } => format!("download {} into the folder of the index", shard.file_name().map_or(shard.display().to_string(), |name| name.to_string_lossy().into_owned())),
            Self::FileChanged { .. } => "let downloads and conversions of the model finish before it is loaded, then start again".into(),
            Self::Tokenizer { .. } => "download tokenizer.json again; a model that has only tokenizer.model must be converted with transformers first".into(),
            Self::TokenizerVocabulary { .. } => "take tokenizer.json and config.json from one distribution of the model".into(),
            Self::Tokenize { .. } => "report the text or tokens with the model's name; `--raw` text that is shorter may pass".into(),
            Self::MissingTemplate { .. } => "use a chat model, give a template file of your own, or run the prompt as it is with `--raw`".into(),
            Self::TemplateSyntax { .. } | Self::TemplateFailed { .. } => "correct the template, give a template file of your own, or run the prompt as it is with `--raw`".into(),
            Self::TemplateRefused { .. } => "change the conversation as the template asks: most want user and assistant to take turns".into(),
            Self::TemplateLimit { .. } => "shorten the conversation, or give a template file of your own: this one does not end".into(),
            Self::UnknownDevice { .. } => "`hetero devices` lists the devices of this machine".into(),
            #[cfg(feature = "npu-sim")]
            Self::Soc(_) => "docs/simulator.md says what a SoC file holds; start from a copy of a built-in one".into(),
            #[cfg(feature = "npu-sim")]
            Self::Faults(_) => "write faults as `npu:late=10x@3; gpu:lost@5`; docs/simulator.md has all forms".into(),
            Self::DeviceNotBuilt { feature, .. } => {
                format!("build with the cargo feature `{feature}`, or choose another device")
            }
            Self::Team(error) => error.fix(),
            Self::DeviceUnusable { fix, .. } => fix.clone(),
            Self::NoDevice => "build with at least one backend's cargo feature, such as `cpu-simd`".into(),
            Self::BadContext { limit, .. } => format!("give a context of at most {limit} tokens"),
            Self::DoesNotFit { .. } => "choose narrower weights (`--weights w4g32`), a shorter `--context`, or a smaller model".into(),
            Self::EmptyPrompt => "give some text".into(),
            Self::PromptTooLong { .. } | Self::ContextFull { .. } => "ask for fewer tokens, or raise `--context` where the command has it and the model allows more".into(),
            Self::TokenOutOfRange { vocabulary, .. } => format!("give ids below {vocabulary}, from this model's own tokenizer"),
            Self::BadWindows { room, .. } => format!("give a `--context` of at most {room} tokens"),
            Self::TextTooShort { .. } => "give a longer text".into(),
            Self::Cancelled => "start again".into(),
            Self::Run(hetero_sched::SchedError::Unsupported { device, .. }) => {
                format!("choose weights that `{device}` computes with, such as `--weights w4g32`, or leave it out with `--devices`")
            }
            Self::Run(
                hetero_sched::SchedError::Backend(BackendError::OutOfMemory { device, .. })
                | hetero_sched::SchedError::Device { error: BackendError::OutOfMemory { device, .. }, .. },
            ) => out_of_memory(device),
            Self::Run(_) => "run again; if it fails again, leave the device out with `--devices`".into(),
            Self::Write { .. } => "check the permissions of the folder and the free space of its disk".into(),
            Self::FolderNotEmpty { .. } => "choose another folder, or empty this one first".into(),
            Self::AlreadyPacked { .. } => "quantise the model that this one was made from".into(),
            Self::PackedOtherwise { .. } => "leave `--weights` out, or quantise the original model to the other format".into(),
            Self::BadOption { option, expected, .. } => format!("give `{option}` {expected}"),
            Self::BadLogits { .. } => "compare with `--weights f32 --activations float`; if that is wrong too, the checkpoint is damaged".into(),
        }
    }
}

fn out_of_memory(device: &str) -> String {
    let less = "choose a shorter `--context` or narrower weights (`--weights w4g32`), or end other programs";
    match device {
        "host" | "cpu" => less.to_owned(),
        device => format!("{less}, or leave `{device}` out with `--devices`"),
    }
}

fn extension(file: &Path) -> &str {
    file.extension().and_then(|extension| extension.to_str()).unwrap_or("")
}
