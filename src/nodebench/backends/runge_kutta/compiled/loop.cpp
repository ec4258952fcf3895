// Steps by compiled programs without a return to Python between them: forwards under a step controller, as in
// `steps.Stepper`, and backwards through transposed steps. `loop.py` says what comes in and goes out.
//
// A program is a function that torch's Inductor has generated: it takes handles of tensors, which are its own from then
// on, and leaves handles of its results. Handles come from Python, and go back, in capsules that own nothing.

#include <Python.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace {

void check(AOTITorchError code) {
    if (code != AOTI_TORCH_SUCCESS) throw std::runtime_error("a call of torch from the loop over compiled steps failed");
}

// A handle of a tensor, deleted with it, or none.
class Handle {
  public:
    Handle() = default;
    explicit Handle(AtenTensorHandle handle) : handle_(handle) {}
    Handle(Handle&& other) noexcept : handle_(other.release()) {}
    Handle& operator=(Handle&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Handle() {
        if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
    }
    AtenTensorHandle get() const { return handle_; }
    AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

  private:
    AtenTensorHandle handle_ = nullptr;
};

using Handles = std::vector<Handle>;

// An error that Python has been told of.
struct Raised {};

PyObject* checked(PyObject* object) {
    if (object == nullptr) throw Raised();
    return object;
}

Handle same(const Handle& handle) {
    AtenTensorHandle other = nullptr;
    check(aoti_torch_new_tensor_handle(handle.get(), &other));
    return Handle(other);
}

void* data(const Handle& handle) {
    void* pointer = nullptr;
    check(aoti_torch_get_data_ptr(handle.get(), &pointer));
    return pointer;
}

bool is_single(const Handle& handle) {
    int32_t dtype = 0;
    check(aoti_torch_get_dtype(handle.get(), &dtype));
    return dtype == aoti_torch_dtype_float32();
}

double number(const Handle& handle) {
    return is_single(handle) ? *static_cast<float*>(data(handle)) : *static_cast<double*>(data(handle));
}

Handle numbers(const std::vector<double>& values, const Handle& like) {
    const int64_t size = values.size(), stride = 1;
    const int32_t dtype = is_single(like) ? aoti_torch_dtype_float32() : aoti_torch_dtype_float64();
    AtenTensorHandle handle = nullptr;
    check(
        aoti_torch_empty_strided(1, &size, &stride, dtype, aoti_torch_device_type_cpu(), 0, &handle));
    Handle made(handle);
    if (is_single(like)) {
        std::copy(values.begin(), values.end(), static_cast<float*>(data(made)));
    } else {
        std::copy(values.begin(), values.end(), static_cast<double*>(data(made)));
    }
    return made;
}

Handle from_python(PyObject* capsule) {
    if (capsule == Py_None) return Handle();
    void* pointer = PyCapsule_GetPointer(capsule, nullptr);
    if (pointer == nullptr) throw Raised();
    return Handle(static_cast<AtenTensorHandle>(pointer));
}

Handles all_from_python(PyObject* capsules) {
    Handles handles;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(capsules); ++i) {
        handles.push_back(from_python(PyList_GET_ITEM(capsules, i)));
    }
    return handles;
}

PyObject* all_to_python(Handles handles) {
    PyObject* list = checked(PyList_New(0));
    for (Handle& handle : handles) {
        PyObject* capsule =
            handle.get() == nullptr ? Py_NewRef(Py_None) : PyCapsule_New(handle.get(), nullptr, nullptr);
        if (PyList_Append(list, checked(capsule)) != 0) throw Raised();
        Py_DECREF(capsule);
        handle.release();
    }
    return list;
}

std::vector<double> doubles(PyObject* tuple) {
    std::vector<double> values;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); ++i) {
        values.push_back(PyFloat_AsDouble(PyTuple_GET_ITEM(tuple, i)));
    }
    return values;
}

struct Program {
    void (*entry)(AtenTensorHandle*, AtenTensorHandle*) = nullptr;
    Py_ssize_t n_results = 0;
    std::vector<Py_ssize_t> kept;  // places of the inputs that are kept

    explicit Program(PyObject* described) {
        if (described == Py_None) return;
        unsigned long long address = 0;
        PyObject* places = nullptr;
        if (!PyArg_ParseTuple(described, "KnO!", &address, &n_results, &PyTuple_Type, &places)) throw Raised();
        entry = reinterpret_cast<void (*)(AtenTensorHandle*, AtenTensorHandle*)>(address);
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(places); ++i) {
            kept.push_back(PyLong_AsSsize_t(PyTuple_GET_ITEM(places, i)));
        }
    }

    Handles operator()(Handles inputs) const {
        std::vector<AtenTensorHandle> taken, found(n_results, nullptr);
        for (Handle& input : inputs) taken.push_back(input.release());
        entry(taken.data(), found.data());
        Handles results;
        for (size_t i = 0; i < found.size(); ++i) {
            // Two results that are one tensor have one handle.
            const auto first = std::find(found.begin(), found.begin() + i, found[i]) - found.begin();
            const bool again = found[i] != nullptr && first != static_cast<std::ptrdiff_t>(i);
            results.push_back(again ? same(results[first]) : Handle(found[i]));
        }
        return results;
    }
};

// What a program keeps of a step, and how much of that is of the evaluation before it; -1 where there was none.
struct Step {
    double start, end;
    Handles kept;
    Py_ssize_t n_before;
};

struct Forward {
    Program first, step;
    Handles fixed, states;  // those that `first` computes are empty until it has
    Py_ssize_t n_evaluated, ratio_at;
    std::vector<double> c;
    double t, target, h, longest, rtol, atol, safety, smallest, largest, exponent, exponent_before, ratio_before;
    Py_ssize_t n_rejected = 0;
    bool has_before = false;  // whether there has been an evaluation before the next step
    Handles before;           // what it keeps
    std::vector<Step> steps;

    Handles inputs(size_t n_states, double start, double end) const {
        Handles found;
        for (const Handle& handle : fixed) found.push_back(same(handle));
        for (size_t i = 0; i < n_states; ++i) found.push_back(same(states[i]));
        std::vector<double> scalars{end - start, rtol, atol};
        for (double place : c) scalars.push_back(place == 1.0 ? end : start + place * (end - start));
        found.push_back(numbers(scalars, states[0]));
        return found;
    }

    void evaluate() {
        has_before = true;
        Handles given = inputs(1, t, t);
        for (Py_ssize_t place : first.kept) before.push_back(same(given[place]));
        Handles found = first(std::move(given));
        std::move(found.begin(), found.begin() + n_evaluated, states.begin() + 1);
        std::move(found.begin() + n_evaluated, found.end(), std::back_inserter(before));
    }

    // Run a step to `end`, and note what it keeps of its inputs.
    Handles run(double end, Handles& kept) {
        if (n_evaluated > 0 && states[1].get() == nullptr) evaluate();
        Handles given = inputs(states.size(), t, end);
        kept.push_back(same(states[0]));
        for (Py_ssize_t place : step.kept) kept.push_back(same(given[place]));
        return step(std::move(given));
    }

    void accept(double end, Handles found, Handles kept) {
        for (Py_ssize_t i = states.size(); i < step.n_results; ++i) {
            if (i != ratio_at) kept.push_back(std::move(found[i]));
        }
        const Py_ssize_t n_before = has_before ? static_cast<Py_ssize_t>(before.size()) : -1;
        has_before = false;
        std::move(before.begin(), before.end(), std::back_inserter(kept));
        before.clear();
        steps.push_back({t, end, std::move(kept), n_before});
        std::move(found.begin(), found.begin() + states.size(), states.begin());
        t = end;
    }

    // False where Python is to judge what happens next; all is then as it was.
    bool attempt() {
        const double bounded = std::min(h, longest);
        const bool ends = bounded >= std::fabs(target - t) * (1 - 1e-9);
        const double end = ends ? target : t + (target > t ? bounded : -bounded);
        const double spacing = std::nextafter(std::fabs(t), std::numeric_limits<double>::infinity()) - std::fabs(t);
        if (!ends && bounded < 8 * spacing) return false;
        Handles kept, found = run(end, kept);
        const double ratio = number(found[ratio_at]);
        if (!std::isfinite(ratio)) return false;
        h = std::fabs(end - t) * factor(ratio, ends);
        if (ratio > 1) {
            ++n_rejected;
            return true;
        }
        if (ends) h = std::max(h, bounded);
        accept(end, std::move(found), std::move(kept));
        return true;
    }

    // As `StepController.factor`.
    double factor(double ratio, bool shortened) {
        const double wanted =
            ratio != 0 ? safety / std::pow(ratio, exponent) * std::pow(ratio_before, exponent_before) : largest;
        if (ratio > 1) return std::max(smallest, wanted);
        if (!shortened) ratio_before = ratio != 0 ? ratio : 1.0;
        return std::min(largest, std::max(1.0, wanted));
    }
};

PyObject* advance(PyObject* arguments) {
    PyObject *first, *step, *fixed, *states, *c, *ends;
    Py_ssize_t n_evaluated, ratio_at, most_steps, most_attempts;
    double t, target, h, longest, rtol, atol, safety, smallest, largest, exponent, exponent_before, ratio_before;
    if (!PyArg_ParseTuple(arguments, "OOO!O!nnO!O!(dddd)(dd)(dddddd)(nn)", &first, &step, &PyList_Type, &fixed,
                          &PyList_Type, &states, &n_evaluated, &ratio_at, &PyTuple_Type, &c, &PyTuple_Type, &ends, &t,
                          &target, &h, &longest, &rtol, &atol, &safety, &smallest, &largest, &exponent,
                          &exponent_before, &ratio_before, &most_steps, &most_attempts)) {
        throw Raised();
    }
    const auto times = doubles(ends);
    Forward solve{Program(first), Program(step), all_from_python(fixed), all_from_python(states), n_evaluated, ratio_at,
                  doubles(c), t, target, h, longest, rtol, atol, safety, smallest, largest, exponent, exponent_before,
                  ratio_before};
    bool stopped = false;
    const auto n_steps = [&] { return static_cast<Py_ssize_t>(solve.steps.size()); };
    for (double end : times) {
        Handles kept, found = solve.run(end, kept);
        solve.accept(end, std::move(found), std::move(kept));
    }
    while (times.empty() && !stopped && solve.t != target && n_steps() < most_steps &&
           n_steps() + solve.n_rejected < most_attempts) {
        stopped = !solve.attempt();
    }
    PyObject* spans = checked(PyList_New(0));
    Handles kept;
    for (Step& one : solve.steps) {
        const Py_ssize_t n_kept = one.kept.size();
        PyObject* span = checked(Py_BuildValue("(ddnn)", one.start, one.end, n_kept, one.n_before));
        if (PyList_Append(spans, span) != 0) throw Raised();
        Py_DECREF(span);
        std::move(one.kept.begin(), one.kept.end(), std::back_inserter(kept));
    }
    return checked(Py_BuildValue("(NNddn)NNNN", PyBool_FromLong(stopped), PyBool_FromLong(solve.has_before), solve.h,
                                 solve.ratio_before, solve.n_rejected, spans, all_to_python(std::move(kept)),
                                 all_to_python(std::move(solve.before)), all_to_python(std::move(solve.states))));
}

PyObject* pull(PyObject* arguments) {
    PyObject *described, *fixed, *tape, *by_state, *by_last, *fed, *nothing, *total;
    if (!PyArg_ParseTuple(arguments, "OO!O!OOOOO", &described, &PyList_Type, &fixed, &PyList_Type, &tape, &by_state,
                          &by_last, &fed, &nothing, &total)) {
        throw Raised();
    }
    const Program step(described);
    const Handles first_inputs = all_from_python(fixed);
    Handles results;  // by the parameters, by the state, by the last derivative of the step before where it counts
    for (PyObject* capsule : {total, by_state, by_last}) results.push_back(from_python(capsule));
    Handle inside = from_python(fed);
    const Handle none = from_python(nothing), zero = same(results[2]);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tape); ++i) {
        Handles inputs;
        for (const Handle& handle : first_inputs) inputs.push_back(same(handle));
        Handles saved = all_from_python(PyList_GET_ITEM(tape, i));
        std::move(saved.begin(), saved.end(), std::back_inserter(inputs));
        inputs.push_back(std::move(results[1]));
        inputs.push_back(results.size() > 2 ? std::move(results[2]) : same(zero));
        inputs.push_back(i == 0 ? std::move(inside) : same(none));
        inputs.push_back(std::move(results[0]));
        results = step(std::move(inputs));
    }
    return all_to_python(std::move(results));
}

// Call a function, and hand on its errors as Python's.
template <PyObject* (*function)(PyObject*)>
PyObject* called(PyObject*, PyObject* arguments) {
    try {
        return function(arguments);
    } catch (const Raised&) {
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

PyMethodDef methods[] = {
    {"advance", called<advance>, METH_VARARGS, nullptr},
    {"pull", called<pull>, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "loop", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit_loop() { return PyModule_Create(&module); }
