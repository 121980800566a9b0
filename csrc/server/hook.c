/* hook.c: a batch of messages answered by Python. The only file that knows Python.
 * It keeps to the limited API of 3.11, so that one extension serves every later Python. A loop runs in a thread that
 * Python made, without the interpreter's lock; for each batch it takes the lock again on that same thread's state. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>

#include "poller/fork.h"
#include "server/server.h"

struct hook {
    PyObject *reply;       /* bytes -> bytes or None; borrowed, as the others; NULL: reply_batch it is */
    PyObject *reply_batch; /* list of bytes -> list of bytes or None */
    PyObject *on_error;    /* is told of what they raise */
    PyThreadState *thread; /* of the loop, while that runs without the lock */
    unsigned fork_generation;
};

/* PyObject_Vectorcall() takes 80 instructions less for each message than PyObject_CallFunctionObjArgs(). Python 3.11
 * has it as well, but promises it to one build for all Pythons only from 3.12 on: so it is asked for by name. */
typedef PyObject *vectorcall(PyObject *callable, PyObject *const *arguments, size_t count, PyObject *keywords);
static vectorcall *call_vector;

/* Calls a function with one argument. The place before that is for the callable to use, which spares a bound method a copy. */
static inline PyObject *call(PyObject *callable, PyObject *argument)
{
    static const size_t has_place_before = (size_t)1 << (8 * sizeof(size_t) - 1); /* PY_VECTORCALL_ARGUMENTS_OFFSET */
    PyObject *arguments[] = {NULL, argument};
    if (!call_vector)
        return PyObject_CallFunctionObjArgs(callable, argument, NULL);
    return call_vector(callable, &arguments[1], 1 | has_place_before, NULL);
}

static PyObject *take_exception(void)
{
#if !defined(Py_LIMITED_API) && PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback && value)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

/* Hands the exception that is set to on_error. Not in a forked child: there, a lock that on_error takes may be held
 * by a thread that is no more. */
static void report_exception(const struct hook *hook)
{
    if (kqn_fork_generation() != hook->fork_generation) {
        PyErr_Clear();
        return;
    }
    PyObject *exception = take_exception();
    PyObject *result = exception ? call(hook->on_error, exception) : NULL;
    if (!result)
        PyErr_WriteUnraisable(hook->on_error);
    Py_XDECREF(result);
    Py_XDECREF(exception);
}

/* Gives entry `index` these bytes for an answer; -1 with an exception set: they can't be one. */
static int set_bytes(struct kqn_batch *batch, int index, const void *bytes, Py_ssize_t len)
{
    int rc = kqn_batch_set_answer(batch, index, bytes, (size_t)len);
    if (rc == -EMSGSIZE)
        PyErr_Format(PyExc_ValueError, "the hook returned %zd bytes; an answer may have 1 GiB", len);
    else if (rc < 0)
        PyErr_Format(PyExc_MemoryError, "no memory for an answer of %zd bytes", len);
    return rc < 0 ? -1 : 0;
}

/* Gives entry `index` what the hook returned for it; -1 with an exception set: that is no answer. */
static int set_answer(struct kqn_batch *batch, int index, PyObject *returned)
{
    if (returned == Py_None) {
        batch->entries[index].verdict = KQN_VERDICT_DECLINED;
        return 0;
    }
    char *bytes;
    Py_ssize_t len;
    if (PyBytes_CheckExact(returned)) /* 129 instructions less than the way of all others */
        return PyBytes_AsStringAndSize(returned, &bytes, &len) < 0 ? -1 : set_bytes(batch, index, bytes, len);
    Py_buffer view;
    if (PyObject_GetBuffer(returned, &view, PyBUF_SIMPLE) < 0) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError, "the hook returned %R; it must return bytes, a bytes-like object or None",
                         (PyObject *)Py_TYPE(returned));
        }
        return -1;
    }
    int rc = set_bytes(batch, index, view.buf, view.len);
    PyBuffer_Release(&view);
    return rc;
}

static PyObject *message_as_bytes(const struct kqn_batch *batch, int index)
{
    return PyBytes_FromStringAndSize((const char *)kqn_batch_message(batch, index), batch->entries[index].message_len);
}

/* Calls the hook with one message; -1 with an exception set. */
static int answer_one(const struct hook *hook, struct kqn_batch *batch, int index)
{
    PyObject *message = message_as_bytes(batch, index);
    PyObject *returned = message ? call(hook->reply, message) : NULL;
    Py_XDECREF(message);
    int rc = returned ? set_answer(batch, index, returned) : -1;
    Py_XDECREF(returned);
    return rc;
}

/* What follows a message that failed on its connection is not for the hook any more. */
static void skip_others(struct kqn_batch *batch, int failed)
{
    for (int i = failed + 1; i < batch->count; i++)
        if (batch->entries[i].conn == batch->entries[failed].conn)
            batch->entries[i].is_skipped = true;
}

static void answer_each(const struct hook *hook, struct kqn_batch *batch)
{
    for (int i = 0; i < batch->count && kqn_fork_generation() == hook->fork_generation; i++) {
        if (batch->entries[i].is_skipped || answer_one(hook, batch, i) == 0)
            continue;
        batch->entries[i].verdict = KQN_VERDICT_FAILED;
        skip_others(batch, i);
        report_exception(hook);
    }
}

static PyObject *messages_as_list(const struct kqn_batch *batch)
{
    PyObject *messages = PyList_New(batch->count);
    for (int i = 0; messages && i < batch->count; i++) {
        PyObject *message = message_as_bytes(batch, i);
        if (!message || PyList_SetItem(messages, i, message) < 0)
            Py_CLEAR(messages);
    }
    return messages;
}

/* A reference of our own: taking an item's buffer may run Python code that changes the list. */
static PyObject *list_item(PyObject *list, int index)
{
#if !defined(Py_LIMITED_API) && PY_VERSION_HEX >= 0x030D0000
    return PyList_GetItemRef(list, index);
#else
    PyObject *item = PyList_GetItem(list, index);
    Py_XINCREF(item);
    return item;
#endif
}

static int set_answers(struct kqn_batch *batch, PyObject *returned)
{
    if (!PyList_Check(returned)) {
        PyErr_Format(PyExc_TypeError, "the batch hook returned %R; it must return a list",
                     (PyObject *)Py_TYPE(returned));
        return -1;
    }
    if (PyList_Size(returned) != batch->count) {
        PyErr_Format(PyExc_ValueError, "the batch hook returned %zd answers to %d messages; None stands for no answer",
                     PyList_Size(returned), batch->count);
        return -1;
    }
    for (int i = 0; i < batch->count; i++) {
        PyObject *answer = list_item(returned, i);
        int rc = answer ? set_answer(batch, i, answer) : -1;
        Py_XDECREF(answer);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static void answer_all(const struct hook *hook, struct kqn_batch *batch)
{
    PyObject *messages = messages_as_list(batch);
    PyObject *returned = messages ? call(hook->reply_batch, messages) : NULL;
    if (!returned || set_answers(batch, returned) < 0) {
        report_exception(hook);
        for (int i = 0; i < batch->count; i++)
            batch->entries[i].verdict = KQN_VERDICT_FAILED;
    }
    Py_XDECREF(returned);
    Py_XDECREF(messages);
}

/* The worker's answerer. */
static void answer_batch(void *context, struct kqn_batch *batch)
{
    struct hook *hook = context;
    PyEval_RestoreThread(hook->thread);
    if (hook->reply)
        answer_each(hook, batch);
    else
        answer_all(hook, batch);
    hook->thread = PyEval_SaveThread();
}

/* The hook may be called by several loops at the same time: all state is in `hook`, on this loop's stack. */
static PyObject *run_loop(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned long long address;
    int loop_index;
    struct hook hook = {.fork_generation = kqn_fork_generation()};
    if (!PyArg_ParseTuple(args, "KiOOO:run_loop", &address, &loop_index, &hook.reply, &hook.reply_batch,
                          &hook.on_error))
        return NULL;
    if (hook.reply == Py_None)
        hook.reply = NULL;
    hook.thread = PyEval_SaveThread();
    int rc = kqn_server_run_with((struct kqn_server *)(uintptr_t)address, loop_index, answer_batch, &hook);
    PyEval_RestoreThread(hook.thread);
    return PyLong_FromLong(rc);
}

static PyMethodDef functions[] = {
    {"run_loop", run_loop, METH_VARARGS,
     "run_loop(server_address, loop_index, reply, reply_batch, on_error) -> int\n\n"
     "Runs one loop of a server with a hook until it has stopped; 0 or -errno."},
    {NULL, NULL, 0, NULL},
};

int kqn_hook_install(uintptr_t module)
{
    PyGILState_STATE state = PyGILState_Ensure();
    call_vector = (vectorcall *)dlsym(RTLD_DEFAULT, "PyObject_Vectorcall");
    int rc = PyModule_AddFunctions((PyObject *)module, functions);
    if (rc < 0)
        PyErr_Clear();
    PyGILState_Release(state);
    return rc < 0 ? -ENOMEM : 0;
}
