/*
 * The guest of the simulator: it starts the processes of containers in the Wine prefix that it runs in, as the broker
 * says, and tells how they end. There is one in a shared prefix, and one for each container that has its own.
 *
 * It knows of no rule: what may be started, with which environment, and who hears of it, is decided in the broker.
 * When the broker's connection ends, it ends, and the jobs take every process along.
 *
 * From the broker: run (id, container, command line, directory, environment, streams in, out, err),
 * kill (id, code), end (container, code), kill-pid (pid). To it: hello (its own environment), started (id, error, pid), exited (id, code).
 */
#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#include <objbase.h>
#include <stdio.h>

#include "../dll/wire.inc"
#include "../dll/pump.inc"

static DWORD port;
static char secret[64], hello[64];
static SOCKET control;
static CRITICAL_SECTION sending, table;

static void tell(const char *what, UINT64 a, UINT64 b, UINT64 c)
{
    message m = {0};
    put_text(&m, what);
    put_number(&m, a);
    put_number(&m, b);
    put_number(&m, c);
    EnterCriticalSection(&sending);
    send_message(control, &m);
    LeaveCriticalSection(&sending);
    release(&m);
}

/* ---- jobs: one holds the processes of a container ---- */

typedef struct job { UINT64 container; HANDLE handle; struct job *next; } job;
static job *jobs;

static HANDLE job_of(UINT64 container)
{
    for (job *j = jobs; j; j = j->next)
        if (j->container == container) return j->handle;
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    limits.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    job *j = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, sizeof *j);
    j->container = container;
    j->handle = CreateJobObjectW(NULL, NULL);
    j->next = jobs;
    jobs = j;
    SetInformationJobObject(j->handle, JobObjectExtendedLimitInformation, &limits, sizeof limits);
    return j->handle;
}

static void end_job(UINT64 container, UINT code)
{
    for (job **at = &jobs; *at; at = &(*at)->next) {
        job *j = *at;
        if (j->container != container) continue;
        TerminateJobObject(j->handle, code);
        CloseHandle(j->handle);
        *at = j->next;
        HeapFree(GetProcessHeap(), 0, j);
        return;
    }
}

/* ---- processes ---- */

typedef struct process { UINT64 id; HANDLE handle; struct process *next; } process;
static process *processes;

static DWORD WINAPI await(void *parameter)
{
    process *p = parameter;
    DWORD code = 0;
    WaitForSingleObject(p->handle, INFINITE);
    GetExitCodeProcess(p->handle, &code);
    EnterCriticalSection(&table);
    for (process **at = &processes; *at; at = &(*at)->next)
        if (*at == p) { *at = p->next; break; }
    CloseHandle(p->handle);
    LeaveCriticalSection(&table);
    tell("exited", p->id, code, 0);
    HeapFree(GetProcessHeap(), 0, p);
    return 0;
}

static void kill(UINT64 id, UINT code)
{
    EnterCriticalSection(&table);
    for (process *p = processes; p; p = p->next)
        if (p->id == id) TerminateProcess(p->handle, code);
    LeaveCriticalSection(&table);
}

/* kill_client ends a process that is none of the guest's: a client, when a fault asks for its death. */
static void kill_client(DWORD pid)
{
    HANDLE process = OpenProcess(PROCESS_TERMINATE, FALSE, pid);
    if (process) TerminateProcess(process, 137), CloseHandle(process);
}

/* ---- streams ---- */

/* open_stream returns the process's end of a stream, which it inherits; the other end is pumped. */
static HANDLE open_stream(UINT64 token, BOOL in)
{
    SECURITY_ATTRIBUTES inherit = {sizeof inherit, NULL, TRUE};
    HANDLE reader, writer;
    char purpose[48];
    if (!token)
        return CreateFileW(L"NUL", in ? GENERIC_READ : GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, &inherit,
                           OPEN_EXISTING, 0, NULL);
    CreatePipe(&reader, &writer, &inherit, 65536);
    SetHandleInformation(in ? writer : reader, HANDLE_FLAG_INHERIT, 0);
    sprintf(purpose, "guest-stream %llu", token);
    pump(connect_broker(port, secret, purpose), in ? writer : reader, in ? from_broker : to_broker);
    return in ? reader : writer;
}

static void run(message *m)
{
    STARTUPINFOW startup = {.cb = sizeof startup, .dwFlags = STARTF_USESTDHANDLES};
    PROCESS_INFORMATION info;
    UINT64 id = take_number(m), container = take_number(m);
    PWSTR command = take_wide(m), directory = take_wide(m), environment = take_wide(m);
    startup.hStdInput = open_stream(take_number(m), TRUE);
    startup.hStdOutput = open_stream(take_number(m), FALSE);
    startup.hStdError = open_stream(take_number(m), FALSE);
    DWORD error = 0;
    if (!CreateProcessW(NULL, command, NULL, NULL, TRUE, CREATE_UNICODE_ENVIRONMENT | CREATE_NO_WINDOW | CREATE_SUSPENDED,
                        environment, directory, &startup, &info)) error = GetLastError();
    CloseHandle(startup.hStdInput);
    CloseHandle(startup.hStdOutput);
    CloseHandle(startup.hStdError);
    CoTaskMemFree(command), CoTaskMemFree(directory), CoTaskMemFree(environment);
    tell("started", id, error, error ? 0 : info.dwProcessId);
    if (error) return;
    AssignProcessToJobObject(job_of(container), info.hProcess);
    process *p = HeapAlloc(GetProcessHeap(), 0, sizeof *p);
    p->id = id, p->handle = info.hProcess;
    EnterCriticalSection(&table);
    p->next = processes, processes = p;
    LeaveCriticalSection(&table);
    ResumeThread(info.hThread);
    CloseHandle(info.hThread);
    CloseHandle(CreateThread(NULL, 0, await, p, 0, NULL));
}

/* greet sends this process's environment, of which the broker makes those of the others. */
static void greet(void)
{
    message m = {0};
    WCHAR *block = GetEnvironmentStringsW(), *end = block;
    while (*end) end += lstrlenW(end) + 1;
    put_text(&m, "hello");
    put(&m, block, (DWORD)((BYTE *)end - (BYTE *)block));
    send_message(control, &m);
    release(&m);
}

int main(int argc, char **argv)
{
    if (argc != 4) return 2;
    sscanf(argv[1], "%lu", &port);
    sscanf(argv[2], "%63s", secret);
    sprintf(hello, "guest %.40s", argv[3]);
    InitializeCriticalSection(&sending);
    InitializeCriticalSection(&table);
    control = connect_broker(port, secret, hello);
    if (control == INVALID_SOCKET) return 3;
    greet();
    for (message m; receive_message(control, &m); release(&m)) {
        DWORD size;
        char what[16] = {0};
        const BYTE *field = take(&m, &size);
        memcpy(what, field, size < 15 ? size : 15);
        if (!strcmp(what, "run")) run(&m);
        UINT64 id = take_number(&m);
        UINT code = (UINT)take_number(&m);
        if (!strcmp(what, "kill")) kill(id, code);
        if (!strcmp(what, "end")) end_job(id, code);
        if (!strcmp(what, "kill-pid")) kill_client((DWORD)id);
    }
    while (jobs) end_job(jobs->container, 1067);
    return 0;
}
