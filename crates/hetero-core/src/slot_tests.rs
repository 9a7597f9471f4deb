//! Rights to a tensor: who gets which, who is refused, and when they come back.

use super::*;
use crate::{Bindings, DType, DeviceId, HostTensor};

fn shared(rows: usize, columns: usize) -> Arc<SharedTensor> {
    let desc = TensorDesc { rows, columns, dtype: DType::F32 };
    SharedTensor::new(Arc::new(HostTensor::new(DeviceId::next(), desc).unwrap()))
}

#[test]
fn two_threads_write_their_parts_and_a_view_sees_both() {
    let tensor = shared(4, 6);
    let parts = vec![Part { rows: 0..4, columns: 0..2 }, Part { rows: 0..4, columns: 2..6 }];
    let mut slots = Vec::new();
    tensor.split(&Partition::new(4, 6, parts).unwrap(), &mut slots);
    std::thread::scope(|scope| {
        for mut slot in slots.drain(..) {
            scope.spawn(move || {
                for row in 0..4 {
                    let first = slot.owned_columns(row).start;
                    for (i, x) in slot.row_mut::<f32>(row).iter_mut().enumerate() {
                        *x = (row * 10 + first + i) as f32;
                    }
                }
            });
        }
    });
    let view = tensor.view();
    for row in 0..4 {
        let expected: Vec<f32> = (0..6).map(|column| (row * 10 + column) as f32).collect();
        assert_eq!(view.row::<f32>(row), expected);
    }
}

#[test]
#[should_panic(expected = "is read while it is being written")]
fn reading_what_is_being_written_is_refused() {
    let tensor = shared(2, 2);
    let _slot = tensor.slot();
    let _view = tensor.view();
}

#[test]
#[should_panic(expected = "is to be written while it is in use")]
fn writing_what_is_being_read_is_refused() {
    let tensor = shared(2, 2);
    let _view = tensor.view();
    let _slot = tensor.slot();
}

#[test]
#[should_panic(expected = "outside the slot's part")]
fn a_slot_lends_no_row_outside_its_part() {
    let tensor = shared(4, 2);
    let parts = vec![Part { rows: 0..2, columns: 0..2 }, Part { rows: 2..4, columns: 0..2 }];
    let mut slots = Vec::new();
    tensor.split(&Partition::new(4, 2, parts).unwrap(), &mut slots);
    slots[0].row_mut::<f32>(2);
}

#[test]
fn rights_come_back_when_dropped() {
    let tensor = shared(2, 2);
    drop(tensor.slot());
    let view = tensor.view();
    let second = view.clone();
    drop((view, second));
    drop(tensor.slot());
}

fn left() -> Part {
    Part { rows: 0..4, columns: 0..2 }
}

fn right() -> Part {
    Part { rows: 0..4, columns: 2..6 }
}

#[test]
fn what_one_writes_another_may_read_beside() {
    let tensor = shared(4, 6);
    let (queue, other) = (DeviceId::next(), DeviceId::next());
    let mut writer = tensor.lend(&Arc::new(Claim::new([], [left()])), queue);
    let reader = tensor.lend(&Arc::new(Claim::new([right()], [])), other);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..4).for_each(|row| writer.write_f32(row, 0, &[row as f32, 1.0])));
        scope.spawn(|| (0..4).for_each(|row| assert_eq!(reader.columns::<f32>(row, 2, 4), [0.0; 4])));
    });
    drop((writer, reader));
    assert_eq!(tensor.view().row::<f32>(3), [3.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_slot_reads_beside_what_it_owns() {
    let tensor = shared(4, 6);
    let claim = Arc::new(Claim::new([Part::whole(4, 6)], [left()]));
    let mut slot = tensor.lend(&claim, DeviceId::next());
    slot.write_f32(1, 0, &[1.0, 2.0]);
    assert_eq!(slot.columns::<f32>(1, 0, 6), [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
    let reader = tensor.lend(&Arc::new(Claim::new([right()], [])), DeviceId::next());
    assert_eq!(reader.columns::<f32>(1, 5, 1), [0.0]);
}

#[test]
#[should_panic(expected = "is to be written while it is in use")]
fn what_a_slot_reads_nobody_else_writes() {
    let tensor = shared(4, 6);
    let _slot = tensor.lend(&Arc::new(Claim::new([right()], [left()])), DeviceId::next());
    let _other = tensor.lend(&Arc::new(Claim::new([], [right()])), DeviceId::next());
}

#[test]
#[should_panic(expected = "is read while it is being written")]
fn another_queue_is_refused() {
    let tensor = shared(4, 6);
    let _slot = tensor.lend(&Arc::new(Claim::new([], [left()])), DeviceId::next());
    let _view = tensor.lend(&Arc::new(Claim::new([Part::whole(4, 6)], [])), DeviceId::next());
}

#[test]
fn a_queued_right_lends_once_those_before_it_came_back() {
    let tensor = shared(4, 6);
    let queue = DeviceId::next();
    let mut first = tensor.lend(&Arc::new(Claim::new([], [left()])), queue);
    let second = tensor.lend(&Arc::new(Claim::new([Part::whole(4, 6)], [])), queue);
    let mut third = tensor.lend(&Arc::new(Claim::new([], [right()])), queue);
    first.write_f32(0, 0, &[1.0, 2.0]);
    let mut first = Bindings { tensors: vec![first] };
    first.give_back();
    assert_eq!(second.columns::<f32>(0, 0, 2), [1.0, 2.0]);
    drop(second);
    third.write_f32(0, 2, &[3.0; 4]);
    drop((first, third));
    assert_eq!(tensor.view().row::<f32>(0), [1.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
}

#[test]
#[should_panic(expected = "before an earlier submission has given it back")]
fn a_queued_right_lends_nothing_before() {
    let tensor = shared(4, 6);
    let queue = DeviceId::next();
    let _first = tensor.lend(&Arc::new(Claim::new([], [left()])), queue);
    let second = tensor.lend(&Arc::new(Claim::new([left()], [])), queue);
    second.columns::<f32>(0, 0, 1);
}

#[test]
#[should_panic(expected = "before an earlier submission has given it back")]
fn a_clone_of_a_view_is_waited_for_too() {
    let tensor = shared(4, 6);
    let queue = DeviceId::next();
    let Binding::Read(view) = tensor.lend(&Arc::new(Claim::new([left()], [])), queue) else { unreachable!() };
    let mut slot = tensor.lend(&Arc::new(Claim::new([], [left()])), queue);
    let clone = view.clone();
    drop(view);
    assert_eq!(clone.columns::<f32>(0, 0, 2), [0.0; 2]);
    slot.write_f32(0, 0, &[1.0]);
}

#[test]
#[should_panic(expected = "after it was given back")]
fn a_right_that_was_given_back_lends_nothing() {
    let tensor = shared(4, 6);
    let mut bindings = Bindings { tensors: vec![Binding::Write(tensor.slot())] };
    bindings.give_back();
    let mut slot = tensor.slot();
    slot.row_mut::<f32>(0).fill(1.0);
    bindings.tensors[0].columns::<f32>(0, 0, 1);
}

#[test]
fn a_processor_takes_over_what_is_queued_on_it() {
    let tensor = shared(4, 6);
    let queue = DeviceId::next();
    let mut first = Bindings { tensors: vec![tensor.lend(&Arc::new(Claim::new([], [left()])), queue)] };
    let mut second = Bindings { tensors: vec![tensor.lend(&Arc::new(Claim::new([left()], [])), queue)] };
    first.hand_over(queue);
    second.hand_over(queue);
    drop((first, second));
    tensor.slot();
}

#[test]
#[should_panic(expected = "is submitted before an earlier submission has given it back")]
fn a_processor_takes_nothing_over_that_the_host_still_has() {
    let tensor = shared(4, 6);
    let queue = DeviceId::next();
    let _first = tensor.lend(&Arc::new(Claim::new([], [left()])), queue);
    let mut second = Bindings { tensors: vec![tensor.lend(&Arc::new(Claim::new([left()], [])), queue)] };
    second.hand_over(queue);
}

#[test]
#[should_panic(expected = "is submitted before an earlier submission has given it back")]
fn a_processor_takes_nothing_over_that_another_has() {
    let tensor = shared(4, 6);
    let queue = DeviceId::next();
    let mut first = Bindings { tensors: vec![tensor.lend(&Arc::new(Claim::new([], [left()])), queue)] };
    let mut second = Bindings { tensors: vec![tensor.lend(&Arc::new(Claim::new([left()], [])), queue)] };
    first.hand_over(queue);
    second.hand_over(DeviceId::next());
}

#[test]
#[should_panic(expected = "given back or to a processor")]
fn what_a_processor_has_lends_nothing() {
    let tensor = shared(4, 6);
    let mut bindings = Bindings { tensors: vec![Binding::Read(tensor.view())] };
    bindings.hand_over(DeviceId::next());
    let Binding::Read(view) = &bindings.tensors[0] else { unreachable!() };
    view.clone().row::<f32>(0);
}

#[test]
fn a_slot_may_own_an_l() {
    let tensor = shared(4, 6);
    let parts = [Part { rows: 0..2, columns: 4..6 }, Part { rows: 2..4, columns: 0..6 }];
    let mut slot = tensor.lend(&Arc::new(Claim::new([], parts)), DeviceId::next());
    let other = Claim::new([], [Part { rows: 0..2, columns: 0..4 }]);
    let mut other = tensor.lend(&Arc::new(other), DeviceId::next());
    slot.write_f32(0, 4, &[1.0; 2]);
    slot.write_f32(2, 0, &[2.0; 6]);
    other.write_f32(1, 0, &[3.0; 4]);
}

/// Memory that the host has no pointer to.
#[derive(Debug)]
struct FarTensor {
    desc: TensorDesc,
    bytes: Mutex<Vec<u8>>,
}

// SAFETY: there is no pointer to what the tensor holds, and the description never changes.
unsafe impl Tensor for FarTensor {
    fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    fn device(&self) -> DeviceId {
        DeviceId::next()
    }

    fn host_ptr(&self) -> Option<NonNull<u8>> {
        None
    }

    fn download(&self, runs: ByteRuns, out: &mut [u8]) -> Result<(), BackendError> {
        let bytes = self.bytes.lock().unwrap();
        let read: Vec<u8> = runs.iter().flat_map(|run| bytes[run].to_vec()).collect();
        out.copy_from_slice(&read);
        Ok(())
    }

    fn upload(&self, runs: ByteRuns, bytes: &[u8]) -> Result<(), BackendError> {
        let mut rest = bytes;
        for run in runs.iter() {
            let (written, behind) = rest.split_at(run.len());
            self.bytes.lock().unwrap()[run].copy_from_slice(written);
            rest = behind;
        }
        Ok(())
    }
}

#[test]
fn rectangles_are_copied_the_same_way_wherever_the_tensor_lives() {
    let desc = TensorDesc { rows: 3, columns: 4, dtype: DType::F16 };
    let far = SharedTensor::new(Arc::new(FarTensor { desc, bytes: Mutex::new(vec![0; desc.bytes()]) }));
    let near = SharedTensor::new(Arc::new(HostTensor::new(DeviceId::next(), desc).unwrap()));
    for tensor in [far, near] {
        let inner = Part { rows: 1..3, columns: 1..3 };
        tensor.slot().write_bytes(&inner, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let mut all = [9; 24];
        tensor.view().read_bytes(&Part::whole(3, 4), &mut all).unwrap();
        assert_eq!(all, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, 0, 0]);
        tensor.view().read_bytes(&Part { rows: 1..1, columns: 0..4 }, &mut []).unwrap();
        let mut column = [0; 4];
        Binding::Read(tensor.view()).read_bytes(&Part { rows: 1..3, columns: 2..3 }, &mut column).unwrap();
        assert_eq!(column, [3, 4, 7, 8]);
        // The first and the last row, as one copy.
        let blocks = RowBlocks { first: 0, rows: 1, distance: 2, n: 2 };
        tensor.slot().write_blocks(&blocks, &(100..116).collect::<Vec<u8>>()).unwrap();
        let mut rows = [0; 16];
        tensor.view().read_blocks(&blocks, &mut rows).unwrap();
        assert_eq!(rows.to_vec(), (100..116).collect::<Vec<u8>>());
        tensor.view().read_bytes(&Part::whole(3, 4), &mut all).unwrap();
        assert_eq!((all[7..17].to_vec()), vec![107, 0, 0, 1, 2, 3, 4, 0, 0, 108]);
    }
}

#[test]
#[should_panic(expected = "outside the right's part")]
fn a_rectangle_outside_the_part_is_not_copied() {
    let tensor = shared(4, 2);
    let parts = vec![Part { rows: 0..2, columns: 0..2 }, Part { rows: 2..4, columns: 0..2 }];
    let mut slots = Vec::new();
    tensor.split(&Partition::new(4, 2, parts).unwrap(), &mut slots);
    let _ = slots[0].write_bytes(&Part { rows: 1..3, columns: 0..2 }, &[0; 16]);
}

#[test]
#[should_panic(expected = "used after it was given back")]
fn a_right_that_a_processor_has_copies_nothing() {
    let tensor = shared(1, 1);
    let mut bindings = Bindings { tensors: vec![Binding::Write(tensor.slot())] };
    bindings.hand_over(DeviceId::next());
    let _ = bindings.tensors[0].read_bytes(&Part::whole(1, 1), &mut [0; 4]);
}
