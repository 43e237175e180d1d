package isolation_test

import (
	"context"
	"fmt"
	"os"

	"github.com/airlock-ci/airlock/isolation"
	"github.com/airlock-ci/airlock/testing/fakes"
)

// ExampleRuntime is the life of a job in a sandbox, and what becomes of one whose executor died.
func ExampleRuntime() {
	ctx := context.Background()
	world := fakes.NewWorld() // a host in memory
	world.Script = func(_ context.Context, spec isolation.ProcessSpec) int {
		fmt.Fprintf(spec.Stdout, "ran %s\n", spec.Script)
		return 3
	}
	runtime := world.Runtime(isolation.ProcessLevel)

	// The caller makes what the runtime needs, in the form that it needs it.
	needs := runtime.Needs()
	fmt.Println("layers:", needs.Root == isolation.RootLayers, "directory:", needs.Scratch == isolation.ScratchDirectory, "network:", needs.Network)
	spec := isolation.Spec{ID: "al-0123456789ab", Image: isolation.Root{Layers: []string{"/layers/1"}}, ScratchDir: "/scratches/al-0123456789ab"}

	sandbox, err := runtime.Create(ctx, spec)
	if err != nil {
		fmt.Println(err) // and nothing is left
		return
	}
	process, err := sandbox.Start(ctx, isolation.ProcessSpec{Script: []byte("make"), Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		fmt.Println(err)
		return
	}
	exit, err := process.Wait()
	fmt.Println("exit", exit.Code, err)
	fmt.Println("destroyed:", sandbox.Destroy(ctx))

	// An executor makes another sandbox and dies. The next one knows nothing but names.
	spec.ID = "al-ba9876543210"
	if _, err := runtime.Create(ctx, spec); err != nil {
		fmt.Println(err)
		return
	}
	next := world.Runtime(isolation.ProcessLevel)
	ids, err := next.List(ctx)
	fmt.Println("left:", ids, err)
	for _, id := range ids {
		fmt.Println("destroyed by id:", next.Destroy(ctx, id))
	}
	fmt.Println("destroyed once more:", next.Destroy(ctx, spec.ID))
	fmt.Println("left:", world.Leftovers())

	// Output:
	// layers: true directory: true network: namespace
	// ran make
	// exit 3 <nil>
	// destroyed: <nil>
	// left: [al-ba9876543210] <nil>
	// destroyed by id: <nil>
	// destroyed once more: <nil>
	// left: []
}
