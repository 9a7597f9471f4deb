//! Reads the header of a safetensors file and trusts none of it.
//!
//! A file is `N`, eight bytes little-endian; a JSON object of `N` bytes that gives each tensor a dtype, a shape and a
//! byte range; and the data. Every number is checked against the length of the file before it is used, with
//! arithmetic that cannot wrap, by name of the tensor; then the `safetensors` crate reads the same header and its
//! rules (ranges without gaps, nothing behind them) are applied as well.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use hetero_core::DType;
use safetensors::SafeTensors;
use safetensors::tensor::SafeTensorError;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{LlamaError, shorten};

/// The limit of the safetensors format.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// More dimensions than any tensor of a language model has.
const MAX_DIMENSIONS: usize = 8;
const LENGTH_BYTES: usize = 8;

/// One tensor of a file: where it is and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// The tensor's name.
    pub name: String,
    /// Its shape, outermost first; empty for a single number.
    pub shape: Vec<usize>,
    /// Its element type; the text of the header when it is none of f32, f16 and bf16.
    pub dtype: Result<DType, String>,
    /// Its bytes in the file. `shape` and `dtype` ask for just as many, and they are inside the file.
    pub bytes: Range<usize>,
}

/// Reads the entries of a whole safetensors file, in the order of their bytes; `file` is the name for messages.
pub fn read_entries(bytes: &[u8], file: &Path) -> Result<Vec<TensorEntry>, LlamaError> {
    let header_error = |expected: String, found: String| LlamaError::WeightsHeader {
        file: file.to_path_buf(),
        expected,
        found: shorten(&found),
    };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(header_error("at least 8 bytes".into(), format!("a file of {} bytes", bytes.len())));
    };
    let header_length = u64::from_le_bytes(*length);
    let limit = MAX_HEADER_BYTES.min(rest.len() as u64);
    if header_length > limit {
        return Err(header_error(
            format!("a header of at most {limit} bytes"),
            format!("a header of {header_length} bytes"),
        ));
    }
    // The comparison above has shown that the length fits.
    let (header, data) = rest.split_at(header_length as usize);
    let data_start = LENGTH_BYTES + header.len();

    let parsed: Header = serde_json::from_slice(header)
        .map_err(|error| header_error("a JSON object of tensors".into(), error.to_string()))?;
    let mut names = HashSet::with_capacity(parsed.tensors.len());
    let mut entries = Vec::with_capacity(parsed.tensors.len());
    for (name, description) in &parsed.tensors {
        if !names.insert(name.as_str()) {
            return Err(LlamaError::DuplicateTensor {
                file: file.to_path_buf(),
                tensor: shorten(name),
                second: file.to_path_buf(),
            });
        }
        entries.push(check_entry(name, description, data.len(), data_start, file)?);
    }

    SafeTensors::read_metadata(bytes).map_err(|error| match error {
        SafeTensorError::InvalidOffset(tensor) => LlamaError::TensorExtent {
            file: file.to_path_buf(),
            tensor: shorten(&tensor),
            expected: "a byte range that begins where the one before it ends".into(),
            found: "a gap or an overlap".into(),
        },
        other => header_error("a header by the rules of the safetensors format".into(), other.to_string()),
    })?;

    entries.sort_by_key(|entry| entry.bytes.start);
    Ok(entries)
}

/// What the header says of one tensor, before anything is checked.
#[derive(serde::Deserialize)]
struct Description {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

fn check_entry(
    name: &str,
    description: &Description,
    data_bytes: usize,
    data_start: usize,
    file: &Path,
) -> Result<TensorEntry, LlamaError> {
    let extent_error = |expected: String, found: String| LlamaError::TensorExtent {
        file: file.to_path_buf(),
        tensor: shorten(name),
        expected,
        found,
    };
    let shape = &description.shape;
    if shape.len() > MAX_DIMENSIONS {
        return Err(extent_error(
            format!("at most {MAX_DIMENSIONS} dimensions"),
            format!("{} dimensions", shape.len()),
        ));
    }
    let (start, end) = description.data_offsets;
    if start > end || end > data_bytes as u64 {
        return Err(extent_error(
            format!("a byte range inside the {data_bytes} bytes of data"),
            format!("bytes {start} to {end}"),
        ));
    }
    let dtype = match description.dtype.as_str() {
        "F32" => Ok(DType::F32),
        "F16" => Ok(DType::F16),
        "BF16" => Ok(DType::BF16),
        other => Err(shorten(other)),
    };
    if let Ok(dtype) = &dtype {
        // Zero sizes are multiplied first, so that no order of the dimensions overflows for an empty tensor.
        let n_bytes = if shape.contains(&0) {
            Some(0)
        } else {
            shape.iter().try_fold(dtype.size() as u64, |product, &size| product.checked_mul(size))
        };
        if n_bytes != Some(end - start) {
            let needed = n_bytes.map_or("more than 2^64".into(), |bytes| bytes.to_string());
            return Err(extent_error(
                format!("{needed} bytes for shape {shape:?} of {dtype}"),
                format!("{} bytes", end - start),
            ));
        }
    }
    // Sizes of a tensor that has bytes are bounded by the file; those of an empty one may not fit a usize.
    let shape = shape
        .iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<Vec<usize>, _>>()
        .map_err(|_| extent_error("sizes that fit this machine".into(), format!("{shape:?}")))?;
    Ok(TensorEntry {
        name: name.to_owned(),
        shape,
        dtype,
        bytes: data_start + start as usize..data_start + end as usize,
    })
}

/// The header as a list, because a map would hide a name that stands in it twice.
struct Header {
    tensors: Vec<(String, Description)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header { tensors })
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, n_data_bytes: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + n_data_bytes, 0);
        bytes
    }

    fn read(header: &str, n_data_bytes: usize) -> Result<Vec<TensorEntry>, LlamaError> {
        read_entries(&file(header, n_data_bytes), Path::new("model.safetensors"))
    }

    #[test]
    fn entries_come_in_the_order_of_their_bytes() {
        let entries = read(
            r#"{"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},
               "a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},
               "c":{"dtype":"I64","shape":[],"data_offsets":[12,20]},
               "__metadata__":{"format":"pt"}}"#,
            20,
        )
        .expect("valid");
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(entries[0].bytes.len(), 4);
        assert_eq!(entries[2].dtype, Err("I64".into()));
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let error = read(
            r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},
               "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            4,
        );
        assert!(matches!(error, Err(LlamaError::DuplicateTensor { .. })), "{error:?}");
    }

    #[test]
    fn sizes_that_wrap_are_refused() {
        for shape in ["[4294967296,4294967296]", "[18446744073709551615,4]", "[9223372036854775807,2,2]"] {
            let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
            let error = read(&header, 0);
            assert!(matches!(error, Err(LlamaError::TensorExtent { .. })), "{error:?}");
        }
    }

    #[test]
    fn gaps_and_bytes_behind_the_end_are_refused() {
        let gap = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
        assert!(matches!(read(gap, 8), Err(LlamaError::TensorExtent { .. })));
        let rest = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        assert!(matches!(read(rest, 8), Err(LlamaError::WeightsHeader { .. })));
    }
}
