//! What a linear kernel computes: types, and which other operators it takes along.

use std::fmt;

use crate::{Element, Format};

/// Types and form of a linear kernel. Its inputs are the rows, the matrices, a bias where there is one (of several
/// matrices, one behind the other), and what is added where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// What the matrices hold.
    pub format: Format,
    /// The type of the rows.
    pub input: Element,
    /// The type of the outputs.
    pub output: Element,
    /// The type of the biases.
    pub bias: Option<Element>,
    /// Whether rows have a multiple of 32 features.
    pub is_whole_groups: bool,
    /// Whether the rows are those that [`crate::Kernel::Quantize`] has made, of 8-bit integers. Then the format is w8g32 or
    /// w4g32.
    pub is_integer: bool,
    /// What it computes.
    pub form: Form,
}

/// What a linear kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// One product.
    Single,
    /// One product, and a tensor of some type added to it.
    Residual(Element),
    /// Two products of the same rows, the first of them the gate of a swiglu whose other input is the second.
    Gated,
    /// Two or three products of the same rows, each with its own output.
    Several(u32),
}

impl Form {
    /// How many matrices it binds.
    pub fn n_matrices(self) -> usize {
        match self {
            Form::Single | Form::Residual(_) => 1,
            Form::Gated => 2,
            Form::Several(n) => n as usize,
        }
    }

    /// How many outputs it binds.
    pub fn n_outputs(self) -> usize {
        match self {
            Form::Several(n) => n as usize,
            _ => 1,
        }
    }
}

impl Linear {
    /// How many inputs it binds.
    pub fn n_inputs(self) -> usize {
        let residual = usize::from(matches!(self.form, Form::Residual(_)));
        1 + self.form.n_matrices() + usize::from(self.bias.is_some()) + residual
    }

    /// Where the inputs begin, and for each kind of input its binding: rows, matrices, bias, what is added.
    pub(crate) fn bindings(self) -> Bindings {
        let rows = 2 + self.form.n_outputs() as u32;
        let bias = rows + 1 + self.form.n_matrices() as u32;
        Bindings { rows, matrices: rows + 1, bias, residual: bias + u32::from(self.bias.is_some()) }
    }

    /// All that are checked: every one that a single operator makes, and of those that take others along the ones that
    /// models have.
    pub(crate) fn all() -> Vec<Linear> {
        let mut all = Vec::new();
        let is_integer = false;
        let biases = [None, Some(Element::F32), Some(Element::F16), Some(Element::Bf16)];
        for format in Format::ALL {
            for is_whole_groups in [false, true] {
                for bias in biases {
                    for (input, output) in Element::ALL.into_iter().flat_map(|x| Element::ALL.map(|y| (x, y))) {
                        all.push(Linear {
                            format,
                            input,
                            output,
                            bias,
                            is_whole_groups,
                            is_integer,
                            form: Form::Single,
                        });
                    }
                }
                let residuals = Element::ALL.map(Form::Residual);
                for form in residuals.into_iter().chain([Form::Gated, Form::Several(2), Form::Several(3)]) {
                    for (bias, output) in [(None, Element::F32), (Some(Element::F32), Element::F16)] {
                        all.push(Linear {
                            format,
                            input: Element::F32,
                            output,
                            bias,
                            is_whole_groups,
                            is_integer,
                            form,
                        });
                    }
                }
            }
        }
        let quantised = all.iter().filter(|linear| matches!(linear.format, Format::W8G32 | Format::W4G32));
        // To rows of integers it is the same what they were, and whether groups were whole.
        let integer = quantised.filter(|linear| linear.input == Element::F32 && linear.is_whole_groups);
        let integer: Vec<Linear> = integer.map(|linear| Linear { is_integer: true, ..*linear }).collect();
        all.extend(integer);
        all
    }
}

/// Bindings of the inputs of a linear kernel.
pub(crate) struct Bindings {
    pub(crate) rows: u32,
    pub(crate) matrices: u32,
    pub(crate) bias: u32,
    pub(crate) residual: u32,
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.format.name(), if self.is_integer { "i8" } else { self.input.name() })?;
        match self.form {
            Form::Single => {}
            Form::Residual(element) => write!(f, " + {}", element.name())?,
            Form::Gated => f.write_str(" gated")?,
            Form::Several(n) => write!(f, " x{n}")?,
        }
        if let Some(bias) = self.bias {
            write!(f, " + {} bias", bias.name())?;
        }
        if !self.is_whole_groups {
            f.write_str(", odd")?;
        }
        Ok(())
    }
}
