//! The contract between models, the scheduler and processors.
//!
//! hetero runs one model on several processors at once. This crate says what that means and nothing more:
//! it does no I/O, starts no thread, links no vendor library and names no backend.
//!
//! Reading order:
//!
//! 1. [`dtype`] and [`tensor`]: what an array is and where it lives.
//! 2. [`claim`], [`slot`] and [`binding`]: who may read and who may write which part of it, now.
//! 3. [`op`] and [`graph`]: what is to be computed.
//! 4. [`partition`] and [`segment`]: which part of it one processor computes in one submission.
//! 5. [`weight`] and [`quantize`]: the layout of weights that all processors share.
//! 6. [`backend`], [`ticket`], [`queued`] and [`step_check`]: how a processor is driven.
//! 7. [`mod@reference`]: every operator as a plain loop, which is its meaning.
//!
//! # The contract in prose
//!
//! **Order.** The submissions of one backend complete in the order in which they were submitted, and each touches
//! memory as though those before it had finished, so that one may be queued behind another whose results it reads.
//! Nothing orders the submissions of two backends but a wait on a [`Timeline`].
//!
//! **Ahead.** Some processors can be given a run before its inputs exist, which begins when the host says so
//! ([`QueuedAhead`]). It has its place in the order from then on, and takes its rights when it begins.
//!
//! **Visibility.** When [`Timeline::completed`] has returned a value that reaches a ticket's, everything that the
//! submission wrote into host-visible memory is visible to the thread that looked, and to whatever that thread
//! submits afterwards, on any backend whose [`Access`] to the tensor is [`Access::Direct`].
//!
//! **Reach.** A tensor is in the memory of the device that allocated it. Where [`Tensor::host_ptr`] is some, the host
//! reaches it directly, and so does every device that says [`Access::Direct`] to it. Where it is none, everybody else
//! reaches it by copies: [`View::read_bytes`] and [`Slot::write_bytes`], which take rectangles and work for tensors of
//! both kinds. What is written so is seen by every later submission of the tensor's device; reading waits for the
//! earlier ones. No operator and no submission copies behind the caller's back: whoever places work on a device that
//! says [`Access::NeedsCopy`] gives it a tensor of its own and copies what is needed, when it is needed.
//! [`DeviceInfo::is_host_visible`] says it before anything is allocated.
//!
//! **Lifetime.** A submission keeps what it reads and writes alive: [`View`]s and [`Slot`]s move into
//! [`Executable::submit`], live in the [`Ticket`], and come back from [`Ticket::wait`].
//! Dropping a ticket waits for its submission.
//!
//! **Writing is owning.** A [`Slot`] is the exclusive right to rectangles of a tensor; a [`View`] is the shared right
//! to read some; no element is in a slot and in another right at once. `slot.rs` holds the one argument for this.
//! A backend that computes through bindings rather than through addresses gives them back when a submission has been
//! computed ([`Bindings::give_back`], or [`HandBack`]), for those that are queued behind it.
//!
//! **Who may block.** [`Timeline::completed`] never does. [`Executable::submit`] may copy a few kilobytes but does not
//! wait for the processor. [`Backend::compile`] and [`Backend::load_weight`] may take seconds.
//! Only [`Timeline::block_until`] waits for a processor.
//!
//! **Errors.** [`BackendError`] is for what a caller cannot foresee. Misuse is an assertion with a message.

#[cfg(target_endian = "big")]
compile_error!("weights are little-endian words in memory and in model files; big-endian machines are not supported");

pub mod backend;
pub mod binding;
pub mod byte_runs;
pub mod claim;
pub mod dtype;
pub mod graph;
pub mod op;
pub mod partition;
pub mod quantize;
pub mod queued;
pub mod reference;
pub mod segment;
pub mod slot;
pub mod step_check;
pub mod tensor;
pub mod ticket;
pub mod weight;
pub mod weight_layout;

pub use backend::{Access, Backend, BackendError, DeviceId, DeviceInfo, DeviceKind, Executable, StepParams, Support};
pub use binding::{Binding, Bindings};
pub use byte_runs::{ByteRuns, RowBlocks};
pub use claim::Claim;
pub use dtype::{DType, Element};
pub use graph::{Graph, GraphBuilder, Node, NodeId, Rows, ValueDesc, ValueId, ValueKind, WeightId};
pub use op::{Op, OpSpec, RowSelection, SplitRule};
pub use partition::{Part, Partition, PartitionError};
pub use queued::QueuedAhead;
pub use segment::{OperandOrder, Segment, SegmentNode};
pub use slot::{SharedTensor, Slot, View};
pub use step_check::StepCheck;
pub use tensor::{HostTensor, TENSOR_ALIGNMENT, Tensor, TensorDesc};
pub use ticket::{HandBack, Ticket, Timeline};
pub use weight::{StoredBytes, Weight, WeightMatrix, WeightRows};
pub use weight_layout::{Arrangement, WeightFormat, WeightLayout};
