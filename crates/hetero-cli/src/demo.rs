//! The model inside the binary, so that the first command needs no download.

use hetero_llama::ModelSource;

use crate::error::CliError;

/// The demo model; an error in a build that leaves it out.
#[cfg(feature = "demo-model")]
pub(crate) fn source() -> Result<ModelSource, CliError> {
    Ok(ModelSource::Embedded(&embedded::MODEL))
}

/// The demo model; an error in a build that leaves it out.
#[cfg(not(feature = "demo-model"))]
pub(crate) fn source() -> Result<ModelSource, CliError> {
    Err(CliError::Usage {
        message: "model: expected `--model PATH`, found none, and this build has no demo model".into(),
        fix: "give the Hugging Face folder of a model with `--model`, or build with the cargo feature `demo-model`"
            .into(),
    })
}

#[cfg(feature = "demo-model")]
mod embedded {
    //! The files of `demo-model/`.

    use hetero_llama::EmbeddedModel;

    pub(super) static MODEL: EmbeddedModel = EmbeddedModel {
        name: "demo-model",
        files: &[
            ("config.json", include_bytes!("../demo-model/config.json")),
            ("generation_config.json", include_bytes!("../demo-model/generation_config.json")),
            ("model.safetensors", include_bytes!("../demo-model/model.safetensors")),
            ("tokenizer.json", include_bytes!("../demo-model/tokenizer.json")),
            ("tokenizer_config.json", include_bytes!("../demo-model/tokenizer_config.json")),
        ],
    };
}
